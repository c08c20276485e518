"""How the answer of a model stands in what its ONNX conversion gives. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class AnswerForm:
    """Where a model's answer is among what the session gives, and in which form the model itself would give it."""

    output: int = 0
    column: int | None = None  # of the output's columns only this, as a row of numbers; None: the output as it is
    dtype: str | None = None  # None: as it comes
    columns: tuple[str, ...] = ()  # of a table, in the order of the session's inputs; (): all in one input
    # What speaks against computing rows of several callers at once, found out from the model itself; None: nothing.
    why_alone: str | None = "the image does not say whether the model treats each row alone"
    takes_gaps: bool = False  # missing numbers are answered as the model answers them, or there can be none


def shape_answer(outputs: list[Any], form: AnswerForm) -> np.ndarray:
    """The answer in a session's `outputs`."""
    answer = np.asarray(outputs[form.output])
    if form.column is not None:
        answer = answer.reshape(len(answer), -1)[:, form.column]
    return answer.astype(form.dtype, copy=False) if form.dtype else answer

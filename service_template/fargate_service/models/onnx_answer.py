"""Extracts a model's answer from the outputs of its ONNX conversion. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class AnswerForm:
    """Which of the session's outputs is the model's answer, and the form in which the model itself returns it."""

    output: int = 0
    column: int | None = None  # only this column of the output, as a 1-D array; None: the whole output
    dtype: str | None = None  # None: unchanged
    columns: tuple[str, ...] = ()  # of a table, in the order of the session's inputs; (): all in one input
    # Why callers cannot share a prediction, determined from the model itself; None: they can.
    why_alone: str | None = "the image does not record whether the model processes each row independently"
    takes_gaps: bool = False  # missing numbers give the model's own answer, or cannot occur


def shape_answer(outputs: list[Any], form: AnswerForm) -> np.ndarray:
    """Returns the answer in a session's `outputs`."""
    answer = np.asarray(outputs[form.output])
    if form.column is not None:
        answer = answer.reshape(len(answer), -1)[:, form.column]
    return answer.astype(form.dtype, copy=False) if form.dtype else answer

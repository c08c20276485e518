"""Computes how far two predictions differ, and how a session's outputs can be read as the prediction. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fargate_service.models.onnx_answer import AnswerForm


def difference(theirs: Any, ours: Any) -> float:
    """Returns the largest difference of two numbers at the same position, relative to theirs if that is above 1.

    Returns 0 for equal values other than numbers, infinity for a different type, shape, text or class.
    """
    if _kind(theirs) != _kind(ours) or _names(theirs) != _names(ours):
        return math.inf
    a, b = np.asarray(theirs), np.asarray(ours)
    if a.shape != b.shape:
        return math.inf
    if a.dtype.kind != "f" or b.dtype.kind != "f":
        return 0.0 if (a.dtype.kind == b.dtype.kind and np.array_equal(a, b)) or _are_texts(a, b) else math.inf
    a, b = a.astype("float64"), b.astype("float64")
    # NaN and infinity must be at the same positions in both.
    if not np.array_equal(np.isfinite(a), np.isfinite(b)) or not np.array_equal(
        a[~np.isfinite(a)], b[~np.isfinite(b)], equal_nan=True
    ):
        return math.inf
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    return float(np.max(np.abs(a - b) / np.maximum(1, np.abs(a)), initial=0))


def possible_forms(form: AnswerForm, outputs: Sequence[Any], answer: Any) -> Iterator[AnswerForm]:
    """Yields ways to read `outputs` as `answer`: each output, or its last column, in the answer's type."""
    kind = np.asarray(answer).dtype
    for number, output in enumerate(outputs):
        array = np.asarray(output)
        dtype = str(kind) if kind.kind == array.dtype.kind and kind.kind in "bifu" else None
        read = dataclasses.replace(form, output=number, dtype=dtype)
        yield read
        # A single column is read as a list of numbers; of two, the second is the probability that a booster returns.
        if array.ndim == 2 and array.shape[1] in (1, 2):
            yield dataclasses.replace(read, column=array.shape[1] - 1)


def _kind(answer: Any) -> str:
    """Returns whether it is a table; arrays and lists have the same JSON."""
    return "table" if hasattr(answer, "columns") else "array"


def _names(answer: Any) -> list[str]:
    return [str(name) for name in getattr(answer, "columns", ())]


def _are_texts(a: np.ndarray, b: np.ndarray) -> bool:
    return all(one.dtype.kind in "UO" for one in (a, b)) and a.astype(str).tolist() == b.astype(str).tolist()

"""Lets the tables or arrays of several requests share one prediction, for models whose rows are independent.

The model's parts show that its rows are independent (row_independence). Its answers must also be arrays with one item
per row, which is checked with the first table that it predicts, its input example if there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fargate_service.batching.batcher import Batcher
from fargate_service.models.loaded_model import Batching, choose_batching

MAX_BATCH_ROWS = 1024
_NOT_ROW_BY_ROW = "the model's answers are not arrays with one item per row"
_UNDECIDED = "the first prediction will show whether requests can share predictions"


class TableBatcher:
    """Calls `predict` for the tables of several threads at once, if each gets the same result as alone.

    `asked` is the user's choice (the option `batching`); None: only if `why_alone`, the reason against it, is also
    None. `predict_checked` is for data that is known to match the signature.
    """

    def __init__(
        self,
        predict: Callable[[Any], Any],
        *,
        asked: bool | None,
        why_alone: str | None,
        predict_checked: Callable[[Any], Any] | None = None,
    ) -> None:
        self._predict = {False: predict, True: predict_checked or predict}
        self._batcher: Batcher[tuple[bool, Any], Any] = Batcher(
            self._call, join=_join, split=split_predictions, max_rows=MAX_BATCH_ROWS
        )
        self.arrivals = self._batcher.arrivals
        self.is_known = why_alone is None  # every part of the model, so that predicting a table has no other effect
        self._chosen = choose_batching(asked, why_alone)
        self._is_to_be_checked = self._chosen.is_on and asked is None

    @property
    def batching(self) -> Batching:
        """Whether requests currently share predictions."""
        if self._is_to_be_checked:
            return Batching(False, _UNDECIDED)
        return self._chosen if self._batcher.is_row_by_row else Batching(False, _NOT_ROW_BY_ROW)

    def predict(self, data: Any, *, is_checked: bool = False) -> Any:
        """Returns the model's answer for `data`; raises the model's exception if it fails."""
        kind: Hashable | None = None
        if self._is_to_be_checked or self.batching.is_on:
            # Tables that match the signature are of one kind.
            kind = "checked" if is_checked and isinstance(data, pd.DataFrame) else kind_of_table(data)
        if kind is None:
            return self._call((is_checked, data))
        if self.batching.is_on:
            return self._batcher.predict((is_checked, data), kind=(is_checked, kind), count=len(data))
        answer = self._call((is_checked, data))
        if len(data) < MAX_BATCH_ROWS:
            self._check(data, answer)
        return answer

    def _call(self, rows: tuple[bool, Any]) -> Any:
        is_checked, data = rows
        return self._predict[is_checked](data)

    def _check(self, data: Any, answer: Any) -> None:
        """Decides with one more prediction: with an added row, the answer must only gain one item."""
        try:
            more = self._predict[False](join_tables([data, data[:1]]))
            parts = split_predictions(more, [len(data), 1])
            expected = split_predictions(answer, [len(data)])[0]
            is_same = all(_are_close(a, b) for a, b in zip(parts, (expected, expected[:1]), strict=True))
        except Exception:  # whatever the error, these answers cannot be shared
            is_same = False
        if not is_same:
            self._batcher.is_row_by_row = False
        self._is_to_be_checked = False


def kind_of_table(data: Any) -> Hashable | None:
    """Returns what two tables or arrays must have in common to be joined; None for data that must be predicted alone.

    That is data that has no rows, has row labels, or has categorical columns, whose codes differ.
    """
    if isinstance(data, np.ndarray):
        return (data.shape[1:], data.dtype) if data.ndim > 1 and data.size else None
    if not isinstance(data, pd.DataFrame) or data.empty or not _is_numbered(data):
        return None
    if any(isinstance(dtype, pd.CategoricalDtype) for dtype in data.dtypes):
        return None
    return tuple((type(name), name) for name in data.columns), tuple(data.dtypes)


def join_tables(tables: Sequence[Any]) -> Any:
    """Returns one table, or one array, with the rows of all."""
    return np.concatenate(tables) if isinstance(tables[0], np.ndarray) else pd.concat(tables, ignore_index=True)


def _join(rows: Sequence[tuple[bool, Any]]) -> tuple[bool, Any]:
    return rows[0][0], join_tables([data for _, data in rows])


def split_predictions(predictions: Any, counts: Sequence[int]) -> list[Any]:
    """Returns the predictions of each table, given its row count; ValueError unless there is one item per row.

    A list does not count: scikit-learn returns a list with an array for each *output* of a model that has several.
    """
    is_table = isinstance(predictions, pd.DataFrame | pd.Series)
    is_array = type(predictions) is np.ndarray and predictions.ndim > 0
    if not (is_array or (is_table and _is_numbered(predictions))) or len(predictions) != sum(counts):
        raise ValueError("the model's answer is not an array with one item per row")
    ends = np.cumsum(counts)
    starts = ends - np.asarray(counts)
    if is_table:
        return [predictions.iloc[a:b].reset_index(drop=True) for a, b in zip(starts, ends, strict=True)]
    return [predictions[a:b] for a, b in zip(starts, ends, strict=True)]


def _is_numbered(table: pd.DataFrame | pd.Series) -> bool:
    """Returns whether the rows are labeled 0, 1, 2, …, which is the default."""
    return bool(table.index.equals(pd.RangeIndex(len(table))))


def _are_close(one: Any, other: Any) -> bool:
    """Returns whether both are equal except for the last digits, which depend on how a library sums up a batch."""
    a, b = np.asarray(one), np.asarray(other)
    if a.dtype.kind in "fc":
        return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True))
    return np.array_equal(a, b)

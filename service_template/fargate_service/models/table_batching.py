"""How the tables of several requests share one prediction, for models whose rows are independent of each other.

A model is known to be such a one by what it is made of (row_independence). Its answers have to be such, too: arrays
with an item for each row. That is checked with the first table that it answers, its input example when there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fargate_service.batching.batcher import Batcher
from fargate_service.models.loaded_model import Batching, choose_batching

MAX_BATCH_ROWS = 1024
_NOT_ROW_BY_ROW = "the model's answers are not arrays with one item for each row"
_UNDECIDED = "the first table that is answered will show whether requests can share predictions"


class TableBatcher:
    """Calls `predict` for the tables of several threads at once, where each gets what it would get alone.

    `asked` is the user's word on it (the option `batching`); None: if `why_alone`, which says what speaks against
    it, is None too.
    """

    def __init__(self, predict: Callable[[Any], Any], *, asked: bool | None, why_alone: str | None) -> None:
        self._predict = predict
        self._batcher: Batcher[Any, Any] = Batcher(
            predict, join=join_tables, split=split_predictions, max_rows=MAX_BATCH_ROWS
        )
        self._chosen = choose_batching(asked, why_alone)
        self._is_to_be_checked = self._chosen.is_on and asked is None

    @property
    def batching(self) -> Batching:
        """Whether requests share predictions at this moment."""
        if self._is_to_be_checked:
            return Batching(False, _UNDECIDED)
        return self._chosen if self._batcher.is_row_by_row else Batching(False, _NOT_ROW_BY_ROW)

    def predict(self, data: Any) -> Any:
        """The model's answer for `data`; its own exception when it fails."""
        kind = kind_of_table(data) if self._is_to_be_checked or self.batching.is_on else None
        if kind is None:
            return self._predict(data)
        if self.batching.is_on:
            return self._batcher.predict(data, kind=kind, count=len(data))
        answer = self._predict(data)
        if len(data) < MAX_BATCH_ROWS:
            self._check(data, answer)
        return answer

    def _check(self, data: pd.DataFrame, answer: Any) -> None:
        """Decides by one more prediction: with a row more, the answer has an item more, and is otherwise the same."""
        try:
            more = self._predict(join_tables([data, data.head(1)]))
            parts = split_predictions(more, [len(data), 1])
            expected = split_predictions(answer, [len(data)])[0]
            is_same = all(_are_close(a, b) for a, b in zip(parts, (expected, expected[:1]), strict=True))
        except Exception:  # whatever it is, these answers cannot be shared
            is_same = False
        if not is_same:
            self._batcher.is_row_by_row = False
        self._is_to_be_checked = False


def kind_of_table(data: Any) -> Hashable | None:
    """What two tables have to have in common to be joined; None for what is to be answered alone.

    That is what is no table with rows, has row labels of its own, or columns of categories, which have their own codes.
    """
    if not isinstance(data, pd.DataFrame) or data.empty or not _is_numbered(data):
        return None
    if any(isinstance(dtype, pd.CategoricalDtype) for dtype in data.dtypes):
        return None
    return tuple((type(name), name) for name in data.columns), tuple(data.dtypes)


def join_tables(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table with the rows of all."""
    return pd.concat(tables, ignore_index=True)


def split_predictions(predictions: Any, counts: Sequence[int]) -> list[Any]:
    """The predictions of each table, of so many rows; ValueError unless they are an array with an item for each row.

    A list is none: scikit-learn gives one with an array for each *output* of a model that has several.
    """
    is_table = isinstance(predictions, pd.DataFrame | pd.Series)
    is_array = type(predictions) is np.ndarray and predictions.ndim > 0
    if not (is_array or (is_table and _is_numbered(predictions))) or len(predictions) != sum(counts):
        raise ValueError("the model does not answer with an array of one item a row")
    ends = np.cumsum(counts)
    starts = ends - np.asarray(counts)
    if is_table:
        return [predictions.iloc[a:b].reset_index(drop=True) for a, b in zip(starts, ends, strict=True)]
    return [predictions[a:b] for a, b in zip(starts, ends, strict=True)]


def _is_numbered(table: pd.DataFrame | pd.Series) -> bool:
    """Whether its rows are labeled 0, 1, 2, …, as they are where nobody labeled them."""
    return bool(table.index.equals(pd.RangeIndex(len(table))))


def _are_close(one: Any, other: Any) -> bool:
    """The same but for the last digits, which depend on how a library sums up a batch of this length."""
    a, b = np.asarray(one), np.asarray(other)
    if a.dtype.kind in "fc":
        return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True))
    return np.array_equal(a, b)

"""Predictions of several requests in one call of the model: adaptive batching without a wait.

While one batch is computed the next one gathers, so batches are as large as the load is high, and a lone request goes
straight through. There is no thread of its own: of the threads that want a prediction one computes for all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Rows = TypeVar("Rows")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Waiting(Generic[Rows, Result]):
    rows: Rows
    kind: Hashable
    count: int
    done: Future[Result] = field(default_factory=Future)


class Batcher(Generic[Rows, Result]):
    """Calls `predict` for the rows of several threads at once.

    `join` makes one of several inputs, `split` takes a result apart by how many rows each input had. When it raises,
    the result is not cut up: those inputs are predicted one by one, and so is every later one (`is_row_by_row`). They
    are predicted one by one as well when the model fails on a batch: nobody pays for another's bad input. Only inputs
    of the same `kind` meet in a batch.
    """

    def __init__(
        self,
        predict: Callable[[Rows], Result],
        *,
        join: Callable[[Sequence[Rows]], Rows],
        split: Callable[[Result, Sequence[int]], Sequence[Result]],
        max_rows: int,
    ) -> None:
        self._predict = predict
        self._join = join
        self._split = split
        self._max_rows = max_rows
        self.is_row_by_row = True  # until an answer is not
        self._lock = threading.Lock()
        self._turn = threading.Lock()  # held by the thread that computes
        self._waiting: list[_Waiting[Rows, Result]] = []

    def predict(self, rows: Rows, *, kind: Hashable, count: int) -> Result:
        """The model's answer for `rows`, which are `count`; the model's own exception when it fails on them."""
        if not self.is_row_by_row:
            return self._predict(rows)
        mine: _Waiting[Rows, Result] = _Waiting(rows, kind, count)
        with self._lock:
            self._waiting.append(mine)
        with self._turn:
            # Whoever had the turn before may have answered for this thread as well.
            while not mine.done.done():
                self._answer(self._take())
        return mine.done.result()

    def _take(self) -> list[_Waiting[Rows, Result]]:
        """The oldest input, with those behind it that fit into one batch with it."""
        with self._lock:
            first, *others = self._waiting
            batch, left, count = [first], [], first.count
            for other in others:
                fits = other.kind == first.kind and count + other.count <= self._max_rows
                if self.is_row_by_row and fits:
                    batch.append(other)
                    count += other.count
                else:
                    left.append(other)
            self._waiting = left
        return batch

    def _answer(self, batch: Sequence[_Waiting[Rows, Result]]) -> None:
        if len(batch) > 1:
            for one, result in zip(batch, self._predict_together(batch), strict=False):
                one.done.set_result(result)
        for one in batch:
            if not one.done.done():
                _answer_alone(one, self._predict)

    def _predict_together(self, batch: Sequence[_Waiting[Rows, Result]]) -> Sequence[Result]:
        """A result for each of them, or nothing: then each is to be predicted alone."""
        try:
            joined = self._predict(self._join([one.rows for one in batch]))
        except Exception:  # whose input it was shows alone
            return []
        try:
            return self._split(joined, [one.count for one in batch])
        except Exception:
            self.is_row_by_row = False
            return []


def _answer_alone(one: _Waiting[Rows, Result], predict: Callable[[Rows], Result]) -> None:
    try:
        one.done.set_result(predict(one.rows))
    except Exception as error:  # raised again in the thread that asked
        one.done.set_exception(error)

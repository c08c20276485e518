"""Predicts for several requests in one call of the model: adaptive batching.

While one batch is computed, the next one collects, so batches grow with the load. A batch also waits a moment for
requests that are still being parsed; a single request goes straight through. There is no worker thread: one of the
threads that wait for a prediction computes it for all of them, and then wakes the thread with the oldest input that is
still waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fargate_service.batching.arrivals import Arrivals

# Only while others are on their way, so a single request never waits. With 16 clients of a linear model, whose
# predictions are the shortest, this doubles the rows of a prediction and saves a fifth of the CPU time.
_WAIT_SECONDS = 0.01

Rows = TypeVar("Rows")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Waiting(Generic[Rows, Result]):
    rows: Rows
    kind: Hashable
    count: int
    done: Future[Result] = field(default_factory=Future)
    woken: threading.Event = field(default_factory=threading.Event)  # done, or this thread's turn to compute


class Batcher(Generic[Rows, Result]):
    """Calls `predict` for the rows of several threads at once.

    `join` combines several inputs into one; `split` divides a result by the number of rows of each input. If `split`
    raises, the result is discarded: those inputs are predicted one by one, and so is every later one
    (`is_row_by_row`). Inputs are also predicted one by one when the model fails on a batch, so that one bad input
    does not fail the others. Only inputs of the same `kind` share a batch.
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
        self.max_rows = max_rows
        self.arrivals = Arrivals()
        self.is_row_by_row = True  # until a result cannot be split
        self._lock = threading.Lock()
        self._is_computing = False
        self._waiting: list[_Waiting[Rows, Result]] = []

    def predict(self, rows: Rows, *, kind: Hashable, count: int) -> Result:
        """Returns the model's result for `rows`, `count` of them; raises the model's exception if it fails on them."""
        if not self.is_row_by_row:
            return self._predict(rows)
        mine: _Waiting[Rows, Result] = _Waiting(rows, kind, count)
        with self._lock:
            self._waiting.append(mine)
            is_first = not self._is_computing
            self._is_computing = True
            is_full = sum(one.count for one in self._waiting) >= self.max_rows
        self.arrivals.arrive(is_enough=is_full)
        if not is_first:
            mine.woken.wait()
        if not mine.done.done():
            try:
                self.arrivals.wait(_WAIT_SECONDS)
                self._answer(self._take())
            finally:
                self._wake_next()
        return mine.done.result()

    def _wake_next(self) -> None:
        """Lets the thread with the oldest input compute the next batch."""
        with self._lock:
            self._is_computing = bool(self._waiting)
            if self._waiting:
                self._waiting[0].woken.set()

    def _take(self) -> list[_Waiting[Rows, Result]]:
        """Returns the oldest input and the later ones that fit into a batch with it."""
        with self._lock:
            first, *others = self._waiting
            batch, left, count = [first], [], first.count
            for other in others:
                fits = other.kind == first.kind and count + other.count <= self.max_rows
                if self.is_row_by_row and fits:
                    batch.append(other)
                    count += other.count
                else:
                    left.append(other)
            self._waiting = left
        return batch

    def _answer(self, batch: list[_Waiting[Rows, Result]]) -> None:
        if len(batch) > 1:
            for one, result in zip(batch, self._predict_together(batch), strict=False):
                one.done.set_result(result)
        for one in batch:
            if not one.done.done():
                _answer_alone(one, self._predict)
            one.woken.set()
        # The traceback of an error leads to this frame, which must not keep the rows, nor the error in a cycle.
        batch.clear()
        del one

    def _predict_together(self, batch: Sequence[_Waiting[Rows, Result]]) -> Sequence[Result]:
        """Returns a result for each input, or an empty list if each must be predicted separately."""
        try:
            joined = self._predict(self._join([one.rows for one in batch]))
        except BaseException:  # predicting one by one shows which input failed
            return []
        try:
            return self._split(joined, [one.count for one in batch])
        except Exception:
            self.is_row_by_row = False
            return []


def _answer_alone(one: _Waiting[Rows, Result], predict: Callable[[Rows], Result]) -> None:
    try:
        one.done.set_result(predict(one.rows))
    except BaseException as error:  # raised again in the calling thread; also SystemExit, so that others go on
        one.done.set_exception(error)

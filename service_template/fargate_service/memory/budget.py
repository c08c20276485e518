"""The memory that requests share: each reserves what it will need before it needs it, or is refused.

    total   what is left of the task's memory once the model is loaded and warm
    bodies  reserved before they are read; at most half of the total, so that work always finds room. Small ones do not
            wait; large ones do until what work on them usually needs is free as well (see body_queue)
    work    parsing, decoding and predicting; waits while others work, because these finish and give their room back

Requests that wait can keep each other from working: each holds its body, or what its work has needed so far. Then the
first goes on waiting, which is one whose work needs more, or has waited longest. The others are refused, which frees
their room, and large new bodies are not begun.

A reservation ends with the last one who holds it. A prediction that has timed out goes on in its thread, and holds it.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass

from fargate_service.errors import RequestError

_MB = 10**6
_SMALL = _MB  # bodies that are soon gone
_EXPECTED = 5  # times what a large body takes: with the work on it, for a table in JSON
_WHOLE = 0.9  # of the total: enough for a large body that needs everything, beside small requests
_LATER = 20 * _MB  # for each of these a request that is refused should wait a second longer


class MemoryBudget:
    """Bytes for requests; without a limit until `open` is called."""

    def __init__(self, wait_seconds: float = 30) -> None:
        self.total: float = math.inf
        self.used = 0
        self.bodies = 0
        self._working = 0
        self._waiting: deque[_Waiting] = deque()  # the first has waited longest
        self.wait_seconds = wait_seconds
        self._changed = threading.Condition()
        self._released: Callable[[], None] = lambda: None

    def open(self, total_bytes: int) -> None:
        """Limits all requests together to `total_bytes`."""
        self.total = total_bytes

    def on_release(self, callback: Callable[[], None]) -> None:
        """Calls `callback` whenever room may have become free, in any thread; it must not wait."""
        self._released = callback

    def is_large(self, size: int) -> bool:
        """Returns whether a body that takes `size` bytes should wait for its turn before it is read."""
        return size > _SMALL

    def check_body(self, size: int) -> None:
        """RequestError 413 if a body that takes `size` bytes can never have room."""
        if size > self.total / 2:
            raise _too_large(size, self.total / 2)

    def take_large_body(self, size: int) -> bool:
        """Reserves `size` bytes for a body; False if they, and what work on it usually needs, are not free."""
        with self._changed:
            is_free = self.used + min(_EXPECTED * size, _WHOLE * self.total) <= self.total
            if self._waiting or not is_free or self.bodies + size > self.total / 2:
                return False
            self.bodies += size
            self.used += size
            return True

    def take_body(self, size: int, held: int) -> None:
        """Reserves `size` bytes more for a body that has `held`; RequestError 413 or 503 if there is no room."""
        with self._changed:
            self.check_body(held + size)
            if self.bodies + size > self.total / 2 or not self._fits(size):
                raise busy(size)
            if size > _SMALL and self._is_stuck():
                raise busy(size)
            self.bodies += size
            self.used += size

    def begin_work(self, size: int, held: int) -> None:
        """Reserves `size` bytes beside the `held` ones; waits while others work. RequestError 413 or 503."""
        with self._changed:
            if held + size > self.total:
                raise _too_large(held + size, self.total)
            if not self._fits(size):
                self._wait(size, is_first=False)
            self._working += 1
            self.used += size

    def take_at_once(self, size: int, *, working: int) -> bool:
        """Reserves `size` bytes, for `working` more threads, if nobody has to wait for it; returns whether it did."""
        with self._changed:
            if self._waiting or not self._fits(size):
                return False
            self._working += working
            self.used += size
            return True

    def change_work(self, size: int, held: int) -> None:
        """Reserves `size` bytes more, or less, for work in progress; before all others, but waits as in begin_work."""
        with self._changed:
            if size > 0 and held + size > self.total:
                raise _too_large(held + size, self.total)
            if size > 0 and not self._fits(size):
                self._working -= 1
                try:
                    self._wait(size, is_first=True)
                finally:
                    self._working += 1
            self.used += size
            self._announce()

    def end_work(self, size: int) -> None:
        """Gives back what work had reserved."""
        with self._changed:
            self._working -= 1
            self.used -= size
            self._announce()

    def end_body(self, size: int, answer: int = 0) -> None:
        """Gives back what a body had reserved, and what was kept for an answer."""
        with self._changed:
            self.bodies -= size
            self.used -= size + answer
            self._announce()

    def _announce(self) -> None:
        self._changed.notify_all()
        self._released()

    def _wait(self, size: int, *, is_first: bool) -> None:
        """Waits until `size` bytes fit; RequestError 503 after a while, or if others wait for what this one holds."""
        waiting = _Waiting(size)
        self._waiting.insert(0 if is_first else len(self._waiting), waiting)
        self._changed.notify_all()  # those who waited for this one to finish
        try:
            self._changed.wait_for(lambda: self._fits(size) or self._is_in_the_way(waiting), self.wait_seconds)
            if not self._fits(size):
                raise busy(size)
        finally:
            self._waiting.remove(waiting)
            self._announce()  # another one may be the first now

    def _fits(self, size: int) -> bool:
        return self.used + size <= self.total

    def _is_stuck(self) -> bool:
        """Returns whether nobody works who would certainly give room back, and some wait for it."""
        return bool(self._waiting) and not self._working and not self._fits(self._waiting[0].size)

    def _is_in_the_way(self, waiting: _Waiting) -> bool:
        return self._is_stuck() and self._waiting[0] is not waiting


@dataclass(frozen=True, eq=False)
class _Waiting:
    """Work that waits for `size` bytes."""

    size: int


class Reservation:
    """What one request has reserved in `budget`, until the last of its holders has let it go."""

    def __init__(self, budget: MemoryBudget) -> None:
        # All threads of a request run in the same context, one after another: MLflow sets a context variable when a
        # stream begins, and resets it when the stream ends.
        self.context = copy_context()
        self._budget = budget
        self._body = 0
        self._work = 0
        self._answer = 0
        self._holders = 0
        self._at_end: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[Reservation]:
        """Holds the reservation."""
        self.hold()
        try:
            yield self
        finally:
            self.let_go()

    def hold(self) -> None:
        with self._lock:
            self._holders += 1

    def let_go(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders:
                return
            body, self._body = self._body, 0
            answer, self._answer = self._answer, 0
            callbacks, self._at_end = self._at_end, []
        self._budget.end_body(body, answer)
        for callback in callbacks:
            callback()

    def at_end(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once nobody holds the reservation, in any thread."""
        self._at_end.append(callback)

    def add_body(self, size: int) -> None:
        """Reserves `size` bytes more for the request's body; RequestError 413 or 503 if there is no room."""
        self._budget.take_body(size, self._body)
        self._body += size

    def add_large_body(self, size: int) -> bool:
        """Reserves `size` bytes for the request's body, and returns whether there was room."""
        is_added = self._budget.take_large_body(size)
        self._body += size * is_added
        return is_added

    def keep_body(self, size: int) -> None:
        """Gives back what is reserved for the body beyond `size` bytes."""
        released = max(0, self._body - size)
        self._body -= released
        self._budget.end_body(released)

    @contextmanager
    def working(self, size: int) -> Iterator[None]:
        """Reserves `size` bytes for a block of work in one thread, not inside another; RequestError 413 or 503."""
        self._budget.begin_work(size, self._body)
        self._work = size
        try:
            yield
        finally:
            self.end()

    def begin_at_once(self, size: int) -> bool:
        """Like `working`, if nobody has to wait for it; returns whether it has begun, and then `end` must follow."""
        if has_begun := self._budget.take_at_once(size, working=1):
            self._work = size
        return has_begun

    def need_at_once(self, size: int) -> bool:
        """Reserves `size` bytes more for work that has begun, if nobody has to wait for it; returns whether it did."""
        if is_there := self._budget.take_at_once(size, working=0):
            self._work += size
        return is_there

    def keep_answer(self, size: int) -> None:
        """Keeps `size` bytes of what work has reserved until the reservation ends: a client can be slow to take it."""
        size = min(size, self._work)
        self._work -= size
        self._answer += size

    def end(self) -> None:
        """Gives back what work has reserved."""
        self._budget.end_work(self._work)
        self._work = 0

    def need(self, size: int) -> None:
        """Reserves `size` bytes more, or less if negative, until the block of work ends."""
        self._budget.change_work(size, self._body + self._work + self._answer)
        self._work += size


# A context variable, because what a request costs is known only deep in the code that parses and decodes it.
_current: ContextVar[Reservation | None] = ContextVar("reservation", default=None)


def current_reservation() -> Reservation:
    """Returns the current request's reservation; outside of a request, one without a limit."""
    return _current.get() or Reservation(MemoryBudget())


@contextmanager
def new_reservation(budget: MemoryBudget) -> Iterator[Reservation]:
    """Makes and holds the current request's reservation."""
    reservation = Reservation(budget)
    token = _current.set(reservation)
    reservation.context = copy_context()
    try:
        with reservation.held():
            yield reservation
    finally:
        _current.reset(token)


def _too_large(size: float, total: float) -> RequestError:
    return RequestError(
        413,
        f"This request needs about {size / _MB:,.0f} MB of memory, and this task has {max(0, total) / _MB:,.0f} MB for "
        "it: send less at once, or raise the deployment's option memory.",
    )


def busy(size: float) -> RequestError:
    """Returns the 503 for a request that needs `size` bytes."""
    # Sending a large body again and again would take more time than processing one does.
    seconds = min(5, 1 + int(size / _LATER))
    message = (
        f"The task's memory is taken by other requests; retry in {seconds} s, or raise the deployment's option memory."
    )
    return RequestError(503, message, headers={"Retry-After": str(seconds)})

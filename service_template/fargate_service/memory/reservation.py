"""What one request has reserved of the memory that all share, and the current request's reservation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context

from fargate_service.memory.budget import MemoryBudget


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
        self._large_body = 0
        self._peak = 0  # of what it needed, also if it was refused
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
        if self._large_body:
            self._budget.end_large_body(self._peak / self._large_body)
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
        self._large_body = size * is_added
        self._body += self._large_body
        return is_added

    def keep_body(self, size: int) -> None:
        """Gives back what is reserved for the body beyond `size` bytes."""
        released = max(0, self._body - size)
        self._body -= released
        self._budget.end_body(released)

    @contextmanager
    def working(self, size: int) -> Iterator[None]:
        """Reserves `size` bytes for a block of work in one thread, not inside another; RequestError 413 or 503."""
        self._peak = max(self._peak, self._body + size)
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
        held = self._body + self._work + self._answer
        self._peak = max(self._peak, held + size)
        self._budget.change_work(size, held)
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

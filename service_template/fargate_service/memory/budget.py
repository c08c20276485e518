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
from collections.abc import Callable
from dataclasses import dataclass

from fargate_service.errors import RequestError

_MB = 10**6
_SMALL = _MB  # bodies that are soon gone
_NEEDS = 5.0  # times what a large body takes, with the work on it: for a table in JSON
_WHOLE = 0.9  # of the total: enough for a large body that needs everything, beside small requests
_LATER = 20 * _MB  # for each of these a request that is refused should wait a second longer


class MemoryBudget:
    """Bytes for requests; without a limit until `open` is called."""

    def __init__(self, wait_seconds: float = 30) -> None:
        self.total: float = math.inf
        self.used = 0
        self.bodies = 0
        self.large = 0
        self._most_large: float = math.inf
        self._working = 0
        self._waiting: deque[_Waiting] = deque()  # the first has waited longest
        self.wait_seconds = wait_seconds
        self._changed = threading.Condition()
        self._released: Callable[[], None] = lambda: None
        self._needs = _NEEDS

    def open(self, total_bytes: int, *, most_large: float = math.inf) -> None:
        """Limits all requests together to `total_bytes`, and those with large bodies to a number.

        More of these would only wait for a thread, while their time runs.
        """
        self.total = total_bytes
        self._most_large = most_large

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
            is_free = self.used + min(self._needs * size, _WHOLE * self.total) <= self.total
            has_turn = not self._waiting and self.large < self._most_large
            if not has_turn or not is_free or self.bodies + size > self.total / 2:
                return False
            self.large += 1
            self.bodies += size
            self.used += size
            return True

    def end_large_body(self, needs: float) -> None:
        """Lets the next large body in, and expects it to need as many times what it takes: compressed images, 30."""
        with self._changed:
            self.large -= 1
            self._needs = max(needs, (7 * self._needs + needs) / 8)  # too high only costs time

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

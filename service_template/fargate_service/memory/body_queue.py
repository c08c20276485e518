"""Large bodies wait for room before they are read, in the order of their arrival: refused, they would be sent again.

A body that is not read stays with its sender: the server keeps only a buffer of it (64 kB in uvicorn).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from fargate_service.memory.budget import MemoryBudget, busy
from fargate_service.memory.reservation import Reservation

_MOST_WAITING = 100  # the budget leaves the server enough for their connections and buffers


class BodyQueue:
    """Reserves the room for bodies of announced sizes; used in one event loop."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._waiting: deque[_Turn] = deque()
        budget.on_release(self._wake)

    async def enter(self, reservation: Reservation, size: int) -> None:
        """Reserves `size` bytes for a body, a large one after waiting for its turn; RequestError 413 or 503."""
        if not self._budget.is_large(size):
            reservation.add_body(size)
            return
        self._budget.check_body(size)
        if self._waiting or not reservation.add_large_body(size):
            await self._wait(reservation, size)

    async def _wait(self, reservation: Reservation, size: int) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            raise busy(size)
        loop = asyncio.get_running_loop()
        turn = _Turn(reservation, size, loop, loop.create_future())
        self._waiting.append(turn)
        self._admit()  # room that was released before anybody waited for it
        try:
            await asyncio.wait_for(turn.has_come, self._budget.wait_seconds)
        except asyncio.TimeoutError as error:
            raise busy(size) from error
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)
                self._admit()

    def _wake(self) -> None:
        """Runs in the thread that releases room."""
        for turn in list(self._waiting)[:1]:
            turn.loop.call_soon_threadsafe(self._admit)

    def _admit(self) -> None:
        while self._waiting:
            turn = self._waiting[0]
            if not turn.has_come.done():  # else its time is over
                if not turn.reservation.add_large_body(turn.size):
                    return
                turn.has_come.set_result(None)
            self._waiting.popleft()


@dataclass(frozen=True, eq=False)
class _Turn:
    """A request that waits for `size` bytes."""

    reservation: Reservation
    size: int
    loop: asyncio.AbstractEventLoop
    has_come: asyncio.Future[None]

"""Gathers requests on the event loop while one thread works, which then answers all of them at once.

With a thread for each request, the threads take the interpreter from each other and from the event loop: every request
costs several switches, and nothing is shared but the prediction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

from fargate_service.memory.reservation import Reservation, current_reservation

# Of the event loop: in these, answers are sent, their clients' next requests are received, and these get here. They
# share a call with those that arrived meanwhile. Two groups of clients taking turns would need twice the calls.
_ROUNDS = 3
Answer = TypeVar("Answer")
Question = tuple[bytes, Reservation]


class _Waiting(NamedTuple):
    body: bytes
    reservation: Reservation
    answer: asyncio.Future[Any]


class Gathering(Generic[Answer]):
    """Answers bodies with `answer_all`, which runs in one thread and returns None for those it does not answer."""

    def __init__(self, answer_all: Callable[[Sequence[Question]], Sequence[Answer | None]]) -> None:
        self._answer_all = answer_all
        self._waiting: list[_Waiting] = []
        self._is_working = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gathered")

    async def ask(self, body: bytes) -> Answer | None:
        """Returns the answer to `body`; the current request's reservation is held until the thread is done with it."""
        loop = asyncio.get_running_loop()
        one = _Waiting(body, current_reservation(), loop.create_future())
        one.reservation.hold()
        self._waiting.append(one)
        if not self._is_working:
            self._is_working = True
            # Not at once: other requests have arrived with this one, and are on their way here.
            loop.call_soon(self._begin)
        answer: Answer | None = await one.answer
        return answer

    def close(self) -> None:
        """Stops the thread after it has finished its work."""
        self._thread.shutdown()

    def _begin(self) -> None:
        batch, self._waiting = self._waiting, []
        self._thread.submit(self._work, batch, asyncio.get_running_loop())

    def _work(self, batch: list[_Waiting], loop: asyncio.AbstractEventLoop) -> None:
        answers: Sequence[Answer | None] = [None] * len(batch)
        try:
            answers = self._answer_all([(one.body, one.reservation) for one in batch])
        finally:
            loop.call_soon_threadsafe(self._end, batch, answers)

    def _end(self, batch: list[_Waiting], answers: Sequence[Answer | None]) -> None:
        for one, answer in zip(batch, answers, strict=True):
            one.reservation.let_go()
            if not one.answer.done():  # it can have timed out
                one.answer.set_result(answer)
        self._go_on(_ROUNDS)

    def _go_on(self, rounds: int) -> None:
        """Begins with what is waiting, after as many rounds of the event loop."""
        if rounds:
            asyncio.get_running_loop().call_soon(self._go_on, rounds - 1)
        elif self._waiting:
            self._begin()
        else:
            self._is_working = False

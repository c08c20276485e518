"""Requests that arrive while one thread works are answered together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from fargate_service.http.gathering import Gathering, Question
from fargate_service.memory.budget import MemoryBudget
from fargate_service.memory.reservation import new_reservation


class Upper:
    """Answers in upper case, but not `none`; the first call waits until it is released."""

    def __init__(self) -> None:
        self.calls: list[list[bytes]] = []
        self.is_in = threading.Event()
        self.released = threading.Event()

    def __call__(self, questions: Sequence[Question]) -> list[bytes | None]:
        self.calls.append([body for body, _ in questions])
        self.is_in.set()
        self.released.wait(30)
        return [None if body == b"none" else body.upper() for body, _ in questions]


async def ask(gathering: Gathering[bytes], body: bytes, budget: MemoryBudget) -> bytes | None:
    with new_reservation(budget) as reservation:
        reservation.add_body(len(body))
        return await gathering.ask(body)


async def until_in(upper: Upper) -> None:
    await asyncio.get_running_loop().run_in_executor(None, upper.is_in.wait, 30)


def test_requests_that_arrive_together_or_while_the_thread_works_share_a_call() -> None:
    upper, budget = Upper(), MemoryBudget()
    gathering = Gathering(upper)

    async def run() -> list[bytes | None]:
        first = [asyncio.create_task(ask(gathering, body, budget)) for body in (b"a", b"b")]
        await until_in(upper)
        later = [asyncio.create_task(ask(gathering, body, budget)) for body in (b"c", b"none", b"d")]
        await asyncio.sleep(0)
        upper.released.set()
        return await asyncio.gather(*first, *later)

    answers = asyncio.run(run())
    gathering.close()

    assert answers == [b"A", b"B", b"C", None, b"D"]
    assert upper.calls == [[b"a", b"b"], [b"c", b"none", b"d"]]
    assert budget.used == 0


def test_callers_who_send_more_at_once_share_the_next_call_with_those_who_wait() -> None:
    upper, budget = Upper(), MemoryBudget()
    gathering = Gathering(upper)

    async def caller(body: bytes) -> None:
        for _ in range(5):
            await ask(gathering, body, budget)

    async def run() -> None:
        first = asyncio.create_task(caller(b"a"))
        await until_in(upper)
        second = asyncio.create_task(caller(b"b"))
        await asyncio.sleep(0)
        upper.released.set()
        await asyncio.gather(first, second)

    asyncio.run(run())
    gathering.close()

    assert [len(call) for call in upper.calls] == [1, 2, 2, 2, 2, 1]


def test_a_request_that_timed_out_keeps_its_memory_until_the_thread_is_done_with_it() -> None:
    upper, budget = Upper(), MemoryBudget()
    gathering = Gathering(upper)

    async def run() -> tuple[float, bytes | None]:
        late = asyncio.create_task(ask(gathering, b"late", budget))
        await until_in(upper)
        late.cancel()
        await asyncio.wait([late])
        held = budget.used
        upper.released.set()
        return held, await ask(gathering, b"next", budget)

    held, answer = asyncio.run(run())
    gathering.close()

    assert (held, answer) == (4, b"NEXT")
    assert budget.used == 0


def test_if_the_thread_fails_nobody_waits_for_an_answer() -> None:
    def fail(_: Sequence[Question]) -> list[bytes | None]:
        raise MemoryError

    gathering = Gathering(fail)

    assert asyncio.run(asyncio.wait_for(ask(gathering, b"a", MemoryBudget()), 30)) is None
    gathering.close()

"""Large bodies wait unread, in the order of their arrival, until there is room for them and for the work on them."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fargate_service.errors import RequestError
from fargate_service.memory.body_queue import BodyQueue
from fargate_service.memory.budget import MemoryBudget
from fargate_service.memory.reservation import Reservation, new_reservation

MB = 10**6


def opened(total: int, wait_seconds: float = 30) -> MemoryBudget:
    budget = MemoryBudget(wait_seconds)
    budget.open(total)
    return budget


def test_large_bodies_that_need_the_whole_memory_are_read_one_after_another_and_none_is_refused() -> None:
    budget = opened(200 * MB)
    queue = BodyQueue(budget)
    order: list[int] = []

    def work(reservation: Reservation) -> None:
        with reservation.working(150 * MB):
            time.sleep(0.001)

    async def send(number: int, threads: ThreadPoolExecutor) -> None:
        with new_reservation(budget) as reservation:
            await queue.enter(reservation, 40 * MB)
            assert budget.bodies == 40 * MB
            await asyncio.get_running_loop().run_in_executor(threads, work, reservation)
            order.append(number)

    async def send_all() -> None:
        with ThreadPoolExecutor(8) as threads:
            await asyncio.gather(*(send(number, threads) for number in range(64)))

    asyncio.run(send_all())

    assert order == list(range(64))
    assert (budget.used, budget.bodies) == (0, 0)


def test_large_bodies_are_read_together_where_the_work_on_them_has_room() -> None:
    budget = opened(200 * MB)
    queue = BodyQueue(budget)

    async def send() -> int:
        with new_reservation(budget) as one, new_reservation(budget) as other:
            await queue.enter(one, 10 * MB)
            await queue.enter(other, 10 * MB)
            return int(budget.bodies)

    assert asyncio.run(send()) == 20 * MB


def test_once_one_body_has_needed_much_the_next_ones_wait_for_as_much() -> None:
    budget = opened(200 * MB)
    queue = BodyQueue(budget)

    async def send() -> tuple[int, bool]:
        with new_reservation(budget) as image:
            await queue.enter(image, 4 * MB)
            with image.working(120 * MB):
                pass
        with new_reservation(budget) as first, new_reservation(budget) as second:
            await queue.enter(first, 4 * MB)
            with first.working(80 * MB):
                waiting = asyncio.create_task(queue.enter(second, 4 * MB))
                await asyncio.sleep(0.05)
                bodies, is_done = budget.bodies, waiting.done()
            await asyncio.wait_for(waiting, 5)
        return bodies, is_done

    assert asyncio.run(send()) == (4 * MB, False)
    assert budget.used == 0


def test_no_more_large_bodies_are_read_at_once_than_can_be_answered_in_time() -> None:
    budget = MemoryBudget()
    budget.open(1000 * MB, most_large=2)
    queue = BodyQueue(budget)

    async def send() -> None:
        with new_reservation(budget) as first, new_reservation(budget) as third:
            with new_reservation(budget) as second:
                await queue.enter(first, 2 * MB)
                await queue.enter(second, 2 * MB)
                waiting = asyncio.create_task(queue.enter(third, 2 * MB))
                await asyncio.sleep(0.05)
                assert not waiting.done()
            await asyncio.wait_for(waiting, 5)

    asyncio.run(send())
    assert (budget.used, budget.large) == (0, 0)


def test_small_bodies_pass_large_ones_that_wait() -> None:
    budget = opened(100 * MB)
    queue = BodyQueue(budget)

    async def send() -> None:
        with new_reservation(budget) as first, new_reservation(budget) as second, new_reservation(budget) as small:
            await queue.enter(first, 40 * MB)
            waiting = asyncio.create_task(queue.enter(second, 40 * MB))
            await asyncio.sleep(0)
            await queue.enter(small, 1000)
            assert not waiting.done()
            first.keep_body(0)
            await asyncio.wait_for(waiting, 5)
            assert budget.bodies == 40 * MB + 1000

    asyncio.run(send())
    assert budget.used == 0


def test_a_body_waits_while_work_in_progress_waits_for_room() -> None:
    budget = opened(100 * MB)
    queue = BodyQueue(budget)

    async def send() -> None:
        loop = asyncio.get_running_loop()
        with new_reservation(budget) as held, ThreadPoolExecutor(1) as threads:
            held.add_body(30 * MB)

            def work() -> None:
                with Reservation(budget).working(80 * MB):
                    pass

            working = loop.run_in_executor(threads, work)
            while not budget._waiting:
                await asyncio.sleep(0.01)
            with new_reservation(budget) as body:
                waiting = asyncio.create_task(queue.enter(body, 2 * MB))
                await asyncio.sleep(0.05)
                assert not waiting.done()
                held.keep_body(0)
                await asyncio.wait_for(waiting, 5)
            await working

    asyncio.run(send())
    assert budget.used == 0


def test_a_body_that_waits_too_long_is_503_and_makes_way_for_the_next_one() -> None:
    budget = opened(100 * MB, wait_seconds=0.2)
    queue = BodyQueue(budget)

    async def send() -> RequestError:
        with new_reservation(budget) as held, new_reservation(budget) as huge, new_reservation(budget) as other:
            held.add_body(20 * MB)
            waiting = asyncio.create_task(queue.enter(huge, 45 * MB))
            await asyncio.sleep(0.1)
            next_one = asyncio.create_task(queue.enter(other, 2 * MB))
            with pytest.raises(RequestError) as refused:
                await waiting
            await asyncio.wait_for(next_one, 5)
            return refused.value

    refused = asyncio.run(send())

    assert (refused.status, refused.headers) == (503, {"Retry-After": "3"})
    assert (budget.used, budget.bodies) == (0, 0)


def test_a_body_that_can_never_fit_is_413_also_when_others_wait() -> None:
    budget = opened(100 * MB)
    queue = BodyQueue(budget)

    async def send() -> list[int]:
        statuses = []
        with new_reservation(budget) as first, new_reservation(budget) as second, new_reservation(budget) as third:
            await queue.enter(first, 40 * MB)
            waiting = asyncio.create_task(queue.enter(second, 40 * MB))
            await asyncio.sleep(0)
            with pytest.raises(RequestError) as refused:
                await queue.enter(third, 60 * MB)
            statuses.append(refused.value.status)
            first.keep_body(0)
            await waiting
        return statuses

    assert asyncio.run(send()) == [413]


def test_only_so_many_wait_that_their_buffers_fit() -> None:
    budget = opened(100 * MB)
    queue = BodyQueue(budget)

    async def send() -> int:
        with new_reservation(budget) as first:
            await queue.enter(first, 40 * MB)
            waiting = [asyncio.create_task(queue.enter(Reservation(budget), 2 * MB + 40 * MB)) for _ in range(100)]
            await asyncio.sleep(0)
            with pytest.raises(RequestError) as refused:
                await queue.enter(Reservation(budget), 2 * MB)
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            return refused.value.status

    assert asyncio.run(send()) == 503
    assert budget.used == 0

"""Requests share the task's memory: each reserves before it uses, waits for work in progress, or is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from fargate_service.errors import RequestError
from fargate_service.memory.budget import MemoryBudget
from fargate_service.memory.reservation import Reservation, current_reservation, new_reservation

MB = 10**6


def opened(total: int, wait_seconds: float = 30) -> MemoryBudget:
    budget = MemoryBudget(wait_seconds)
    budget.open(total)
    return budget


def test_without_a_known_limit_everything_has_room() -> None:
    with new_reservation(MemoryBudget()) as reservation, reservation.working(10**15):
        reservation.add_body(10**15)


def test_what_can_never_fit_is_413_and_names_the_option() -> None:
    reservation = Reservation(opened(100 * 10**6))

    with (
        pytest.raises(RequestError, match=r"about 150 MB .* 100 MB .* option memory") as refused,
        reservation.working(150 * 10**6),
    ):
        pytest.fail("there is no room")

    assert refused.value.status == 413


def test_bodies_leave_half_of_the_memory_to_work() -> None:
    budget = opened(100)
    with new_reservation(budget) as one, new_reservation(budget) as other:
        one.add_body(40)
        with pytest.raises(RequestError, match="retry in 1 s") as busy:
            other.add_body(20)
        other.add_body(10)
        with pytest.raises(RequestError) as never:
            one.add_body(20)

    assert (busy.value.status, busy.value.headers) == (503, {"Retry-After": "1"})
    assert never.value.status == 413
    assert (budget.used, budget.bodies) == (0, 0)


def test_work_waits_while_other_work_will_finish() -> None:
    budget = opened(100)
    order: list[str] = []
    has_begun = threading.Event()

    def second() -> None:
        with Reservation(budget).working(60):
            order.append("second")

    with ThreadPoolExecutor(1) as thread:
        with Reservation(budget).working(60):
            waiting = thread.submit(second)
            assert not has_begun.wait(0.1)
            order.append("first")
        waiting.result(5)

    assert order == ["first", "second"]
    assert budget.used == 0


def test_a_body_that_has_arrived_keeps_only_what_it_needs() -> None:
    budget = opened(100)
    with new_reservation(budget) as reservation:
        reservation.add_body(40)
        reservation.keep_body(20)
        assert (budget.used, budget.bodies) == (20, 20)
        reservation.keep_body(30)
        assert (budget.used, budget.bodies) == (20, 20)

    assert (budget.used, budget.bodies) == (0, 0)


def test_of_requests_that_keep_each_other_from_working_the_first_waits_and_the_others_are_refused() -> None:
    budget = opened(100)
    first, second = Reservation(budget), Reservation(budget)
    first.hold()
    second.hold()
    first.add_body(25)
    second.add_body(25)

    def work() -> str:
        with first.working(60):
            return "done"

    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(work)
        until(lambda: bool(budget._waiting))
        with pytest.raises(RequestError) as refused, second.working(60):
            pytest.fail("there is no room")
        assert not waiting.done()
        second.let_go()
        assert waiting.result(5) == "done"
    first.let_go()

    assert refused.value.status == 503
    assert budget.used == 0


@pytest.mark.parametrize(("size", "seconds"), [(1, "1"), (30 * MB, "3"), (90 * MB, "5")])
def test_retry_after_is_later_for_large_requests_than_for_small_ones(size: int, seconds: str) -> None:
    budget = opened(200 * MB)
    with Reservation(budget).working(190 * MB), pytest.raises(RequestError) as refused:
        Reservation(budget).add_body(size + 10 * MB)

    assert refused.value.headers == {"Retry-After": seconds}


def test_while_a_request_waits_for_room_and_nobody_works_large_bodies_are_refused_and_small_ones_are_not() -> None:
    budget = opened(100 * MB, wait_seconds=0.5)
    with new_reservation(budget) as arriving, ThreadPoolExecutor(1) as thread:
        arriving.add_body(30 * MB)

        def work() -> None:
            with Reservation(budget).working(80 * MB):
                pytest.fail("there is no room")

        waiting = thread.submit(work)
        until(lambda: bool(budget._waiting))
        with pytest.raises(RequestError) as refused:
            Reservation(budget).add_body(2 * MB)
        with new_reservation(budget) as small, small.working(1000):
            small.add_body(1000)
        with pytest.raises(RequestError) as in_the_end:
            waiting.result(5)

    assert (refused.value.status, in_the_end.value.status, budget.used) == (503, 503, 0)


def test_many_large_bodies_at_once_are_all_answered_when_they_are_sent_again() -> None:
    budget = opened(225 * MB)
    refusals: list[RequestError] = []

    def send() -> None:
        while True:
            with new_reservation(budget) as reservation:
                try:
                    reservation.add_body(39 * MB)
                    reservation.keep_body(20 * MB)
                    with reservation.working(160 * MB):
                        assert budget.used <= 225 * MB
                        return
                except RequestError as refused:
                    assert refused.status == 503
                    refusals.append(refused)
            threading.Event().wait(0.001)

    with ThreadPoolExecutor(32) as threads:
        for one in [threads.submit(send) for _ in range(320)]:
            one.result(30)

    assert budget.used == budget.bodies == 0


def until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not become true")


def test_waiting_ends_after_a_while() -> None:
    budget = opened(100, wait_seconds=0.05)
    with Reservation(budget).working(60), pytest.raises(RequestError) as refused, Reservation(budget).working(60):
        pytest.fail("there is no room")

    assert refused.value.status == 503


def test_work_that_needs_more_than_there_is_at_all_is_413() -> None:
    with (
        pytest.raises(RequestError) as never,
        new_reservation(opened(100)) as reservation,
        reservation.working(30),
    ):
        reservation.need(80)

    assert never.value.status == 413


def test_work_that_needs_more_waits_for_other_work() -> None:
    budget = opened(100)
    one, other = Reservation(budget), Reservation(budget)
    with ThreadPoolExecutor(1) as thread, one.working(30):

        def work() -> str:
            with other.working(30):
                other.need(60)
                return "done"

        waiting = thread.submit(work)
        until(lambda: bool(budget._waiting))
        assert not waiting.done()
        one.need(-20)
        assert waiting.result(5) == "done"

    assert budget.used == 0


def test_of_works_that_both_need_more_one_is_refused() -> None:
    budget = opened(100)
    begun = threading.Barrier(2)
    results: list[str | int] = []

    def work() -> None:
        try:
            reservation = Reservation(budget)
            with reservation.working(40):
                begun.wait(5)
                reservation.need(40)
                results.append("done")
        except RequestError as refused:
            results.append(refused.status)

    with ThreadPoolExecutor(2) as threads:
        for one in [threads.submit(work) for _ in range(2)]:
            one.result(5)

    assert sorted(map(str, results)) == ["503", "done"]
    assert budget.used == 0


def test_bodies_that_wait_give_way_to_work_that_needs_more() -> None:
    budget = opened(100)
    at_work, arrived = Reservation(budget), Reservation(budget)
    with ThreadPoolExecutor(1) as thread, at_work.working(40):

        def send() -> int:
            with arrived.held():
                arrived.add_body(40)
                try:
                    with arrived.working(50):
                        return 200
                except RequestError as refused:
                    return refused.status

        waiting = thread.submit(send)
        until(lambda: bool(budget._waiting))
        at_work.need(50)
        assert waiting.result(5) == 503

    assert budget.used == 0


def test_an_error_in_the_work_gives_its_memory_back() -> None:
    budget = opened(100)
    with (
        pytest.raises(ZeroDivisionError),
        new_reservation(budget) as reservation,
        reservation.working(20),
    ):
        reservation.need(30)
        raise ZeroDivisionError

    assert budget.used == 0


def test_a_reservation_lasts_until_its_last_holder_lets_go() -> None:
    budget = opened(100)
    ended: list[bool] = []
    with new_reservation(budget) as reservation:
        assert current_reservation() is reservation
        reservation.add_body(10)
        reservation.at_end(lambda: ended.append(True))
        reservation.hold()  # a thread that goes on after a time-out

    assert (budget.used, ended) == (10, [])

    reservation.let_go()

    assert (budget.used, ended) == (0, [True])


def test_many_threads_never_exceed_the_total_and_all_get_their_turn() -> None:
    budget = opened(100)
    highest: list[int] = []

    def work(size: int) -> None:
        with new_reservation(budget) as reservation, reservation.working(size):
            highest.append(budget.used)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(1, 101)))

    assert len(highest) == 100
    assert max(highest) <= 100
    assert budget.used == 0


def test_what_work_keeps_for_an_answer_is_reserved_until_the_last_holder_lets_go() -> None:
    budget = MemoryBudget()
    budget.open(100)
    with new_reservation(budget) as reservation:
        with reservation.working(50):
            reservation.keep_answer(20)
            assert budget.used == 50
        assert budget.used == 20
        with pytest.raises(RequestError, match="This request needs"), reservation.working(10):
            reservation.need(80)

    assert budget.used == 0

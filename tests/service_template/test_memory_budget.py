"""Requests share the task's memory: each reserves before it uses, waits for work in progress, or is refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fargate_service.errors import RequestError
from fargate_service.memory.budget import MemoryBudget, Reservation, current_reservation, new_reservation


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
        with pytest.raises(RequestError, match="retry in a second") as busy:
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


def test_work_is_refused_if_nobody_who_works_could_make_room() -> None:
    budget = opened(100)
    with new_reservation(budget) as other:
        other.add_body(50)
        with pytest.raises(RequestError) as refused, Reservation(budget).working(60):
            pytest.fail("there is no room")

    assert refused.value.status == 503


def test_waiting_ends_after_a_while() -> None:
    budget = opened(100, wait_seconds=0.05)
    with Reservation(budget).working(60), pytest.raises(RequestError) as refused, Reservation(budget).working(60):
        pytest.fail("there is no room")

    assert refused.value.status == 503


def test_work_that_needs_more_does_not_wait() -> None:
    budget = opened(100)
    one, other = Reservation(budget), Reservation(budget)
    with one.working(30), other.working(30):
        one.need(40)
        with pytest.raises(RequestError) as busy:
            other.need(10)
        one.need(-40)
        other.need(10)
        with pytest.raises(RequestError) as never:
            other.need(80)

    assert (busy.value.status, never.value.status, budget.used) == (503, 413, 0)


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

"""Several threads share one prediction."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest

from fargate_service.batching import batcher as batcher_module
from fargate_service.batching.batcher import Batcher

Numbers = list[int]
HELD = 77


class Doubler:
    """Doubles lists of numbers; the first call waits until it is released, so that others queue behind it."""

    def __init__(self) -> None:
        self.calls: list[Numbers] = []
        self.first_is_in = threading.Event()
        self.go_on = threading.Event()
        self.let_held_go = threading.Event()

    def __call__(self, numbers: Numbers) -> Numbers:
        self.calls.append(list(numbers))
        self.first_is_in.set()
        self.go_on.wait(30)
        if HELD in numbers:
            self.let_held_go.wait(30)
        if -1 in numbers:
            raise ValueError("no negative numbers")
        return [2 * number for number in numbers]


def join(lists: Sequence[Numbers]) -> Numbers:
    return [number for numbers in lists for number in numbers]


def split(result: Numbers, counts: Sequence[int]) -> list[Numbers]:
    rest = iter(result)
    return [[next(rest) for _ in range(count)] for count in counts]


def wait_until(is_so: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.001)


def answers_to(
    inputs: Sequence[Numbers], model: Doubler, *, max_rows: int = 100, split: Callable[..., list[Numbers]] = split
) -> list[Numbers | BaseException | None]:
    """Returns the results of threads that call while the first input is being predicted."""
    batcher: Batcher[Numbers, Numbers] = Batcher(model, join=join, split=split, max_rows=max_rows)
    with ThreadPoolExecutor(len(inputs)) as threads:
        asked = [threads.submit(batcher.predict, inputs[0], kind="n", count=len(inputs[0]))]
        assert model.first_is_in.wait(30)
        asked += [threads.submit(batcher.predict, one, kind="n", count=len(one)) for one in inputs[1:]]
        wait_until(lambda: len(batcher._waiting) == len(inputs) - 1)
        model.go_on.set()
        return [future.exception() or future.result() for future in asked]


def test_inputs_that_arrive_while_a_batch_is_computed_form_the_next_batch() -> None:
    model = Doubler()

    answers = answers_to([[1], [2], [3, 4], [5]], model)

    assert answers == [[2], [4], [6, 8], [10]]
    assert model.calls[0] == [1]
    assert sorted(model.calls[1]) == [2, 3, 4, 5]


def test_a_caller_with_an_answer_does_not_wait_for_the_next_batch() -> None:
    model = Doubler()
    batcher: Batcher[Numbers, Numbers] = Batcher(model, join=join, split=split, max_rows=9)

    with ThreadPoolExecutor(4) as threads:
        asked = []
        for waiting, number in enumerate([1, 2, HELD, 3]):
            kind = "held" if number == HELD else "n"
            asked.append(threads.submit(batcher.predict, [number], kind=kind, count=1))
            wait_until(lambda n=waiting: model.calls and len(batcher._waiting) == n)  # type: ignore[misc]
        model.go_on.set()
        try:
            wait_until(lambda: [HELD] in model.calls)

            assert model.calls == [[1], [2, 3], [HELD]]
            assert asked[3].result(5) == [6]
            assert not asked[2].done()
        finally:
            model.let_held_go.set()


def test_the_others_get_answers_if_the_model_ends_the_thread() -> None:
    class Quitter(Doubler):
        def __call__(self, numbers: Numbers) -> Numbers:
            if 2 in numbers:
                raise SystemExit
            return super().__call__(numbers)

    answers = answers_to([[1], [2], [3]], Quitter())

    assert isinstance(answers[1], SystemExit)
    assert [answers[0], answers[2]] == [[2], [6]]


def free_batcher(model: Doubler) -> Batcher[Numbers, Numbers]:
    """Returns a batcher of a model that answers at once."""
    model.go_on.set()
    return Batcher(model, join=join, split=split, max_rows=9)


@pytest.mark.parametrize(("seconds", "batches"), [(30, [[1, 2]]), (0.01, [[1], [2]])])
def test_a_batch_waits_only_briefly_for_a_request_that_is_on_its_way(
    seconds: float, batches: list[Numbers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher_module, "_WAIT_SECONDS", seconds)
    model = Doubler()
    batcher = free_batcher(model)
    announced = batcher.arrivals.announce()

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(batcher.predict, [1], kind="n", count=1)
        wait_until(lambda: batcher._waiting if seconds > 1 else first.done())
        second = threads.submit(
            copy_context().run, batcher.arrivals.run, announced, lambda: batcher.predict([2], kind="n", count=1)
        )

        assert (first.result(), second.result()) == ([2], [4])
    assert model.calls == batches


def test_a_single_request_does_not_wait_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher_module, "_WAIT_SECONDS", 30)
    batcher = free_batcher(Doubler())
    announced = batcher.arrivals.announce()

    began = time.monotonic()
    copy_context().run(batcher.arrivals.run, announced, lambda: batcher.predict([1], kind="n", count=1))

    assert time.monotonic() - began < 10


def test_nobody_waits_for_a_request_that_ended_before_it_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher_module, "_WAIT_SECONDS", 30)
    batcher = free_batcher(Doubler())
    announced = batcher.arrivals.announce()

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(batcher.predict, [1], kind="n", count=1)
        wait_until(lambda: batcher._waiting)
        batcher.arrivals.end(announced)

        assert first.result(10) == [2]


def test_a_batch_has_a_maximum_size() -> None:
    model = Doubler()

    answers = answers_to([[1], [2], [3], [4], [5]], model, max_rows=2)

    assert answers == [[2], [4], [6], [8], [10]]
    assert [len(call) for call in model.calls] == [1, 2, 2]


def test_one_bad_input_fails_alone() -> None:
    answers = answers_to([[1], [2], [-1], [3]], Doubler())

    assert answers[0:2] == [[2], [4]]
    assert isinstance(answers[2], ValueError)
    assert answers[3] == [6]


def test_a_model_whose_results_are_not_per_row_predicts_inputs_one_by_one() -> None:
    def refuse(*_: object) -> list[Numbers]:
        raise ValueError("not one prediction a row")

    assert answers_to([[1], [2], [3]], Doubler(), split=refuse) == [[2], [4], [6]]


def test_after_a_result_that_is_not_per_row_threads_no_longer_wait_for_each_other() -> None:
    model = Doubler()
    batcher: Batcher[Numbers, Numbers] = Batcher(model, join=join, split=split, max_rows=9)
    batcher.is_row_by_row = False
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(batcher.predict, [1], kind="n", count=1)
        second = threads.submit(batcher.predict, [2], kind="n", count=1)
        wait_until(lambda: len(model.calls) == 2)
        model.go_on.set()

        assert (first.result(), second.result()) == ([2], [4])


def test_inputs_of_different_kinds_do_not_share_a_batch() -> None:
    model = Doubler()
    model.go_on.set()
    batcher: Batcher[Numbers, Numbers] = Batcher(model, join=join, split=split, max_rows=9)

    assert batcher.predict([1], kind="a", count=1) == [2]
    assert batcher.predict([2], kind="b", count=1) == [4]
    assert model.calls == [[1], [2]]


def test_a_full_batch_does_not_wait_for_requests_that_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher_module, "_WAIT_SECONDS", 30)
    batcher = free_batcher(Doubler())
    batcher.arrivals.announce()

    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(batcher.predict, rows, kind="n", count=len(rows)) for rows in ([1] * 4, [2] * 5)]

        assert [one.result(10) for one in answers] == [[2] * 4, [4] * 5]


def test_a_request_is_on_its_way_only_while_its_function_runs() -> None:
    arrivals = free_batcher(Doubler()).arrivals

    assert arrivals.announced(lambda: len(arrivals._coming)) == 1
    assert not arrivals._coming

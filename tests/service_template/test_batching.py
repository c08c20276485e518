"""Several threads, one prediction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from batching import Batcher
from hypothesis import given
from hypothesis import strategies as st
from table_batching import is_batchable, join_tables, kind_of_table, split_predictions

Numbers = list[int]


class Doubler:
    """Doubles lists of numbers; the first call waits until it is let go, so that others gather behind it."""

    def __init__(self) -> None:
        self.calls: list[Numbers] = []
        self.first_is_in = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, numbers: Numbers) -> Numbers:
        self.calls.append(list(numbers))
        self.first_is_in.set()
        self.go_on.wait(30)
        if -1 in numbers:
            raise ValueError("no negative numbers")
        return [2 * number for number in numbers]


def join(lists: Sequence[Numbers]) -> Numbers:
    return [number for numbers in lists for number in numbers]


def split(result: Numbers, counts: Sequence[int]) -> list[Numbers]:
    rest = iter(result)
    return [[next(rest) for _ in range(count)] for count in counts]


def answers_to(
    inputs: Sequence[Numbers], model: Doubler, *, max_rows: int = 100, split: Callable[..., list[Numbers]] = split
) -> list[Numbers | Exception | None]:
    """What threads get that ask while the first input, which comes before all of them, is being predicted."""
    batcher: Batcher[Numbers, Numbers] = Batcher(model, join=join, split=split, max_rows=max_rows)
    with ThreadPoolExecutor(len(inputs)) as threads:
        asked = [threads.submit(batcher.predict, inputs[0], kind="n", count=len(inputs[0]))]
        assert model.first_is_in.wait(30)
        asked += [threads.submit(batcher.predict, one, kind="n", count=len(one)) for one in inputs[1:]]
        while len(batcher._waiting) < len(inputs) - 1:
            threading.Event().wait(0.001)
        model.go_on.set()
        return [future.exception() or future.result() for future in asked]  # type: ignore[misc]


def test_what_came_while_a_batch_was_computed_is_the_next_batch() -> None:
    model = Doubler()

    answers = answers_to([[1], [2], [3, 4], [5]], model)

    assert answers == [[2], [4], [6, 8], [10]]
    assert model.calls[0] == [1]
    assert sorted(model.calls[1]) == [2, 3, 4, 5]


def test_a_batch_has_an_end() -> None:
    model = Doubler()

    answers = answers_to([[1], [2], [3], [4], [5]], model, max_rows=2)

    assert answers == [[2], [4], [6], [8], [10]]
    assert [len(call) for call in model.calls] == [1, 2, 2]


def test_one_bad_input_fails_alone() -> None:
    answers = answers_to([[1], [2], [-1], [3]], Doubler())

    assert answers[0:2] == [[2], [4]]
    assert isinstance(answers[2], ValueError)
    assert answers[3] == [6]


def test_a_model_that_does_not_answer_row_by_row_is_asked_one_by_one() -> None:
    def refuse(*_: object) -> list[Numbers]:
        raise ValueError("not one prediction a row")

    assert answers_to([[1], [2], [3]], Doubler(), split=refuse) == [[2], [4], [6]]


def test_inputs_of_another_kind_do_not_meet() -> None:
    model = Doubler()
    model.go_on.set()
    batcher: Batcher[Numbers, Numbers] = Batcher(model, join=join, split=split, max_rows=9)

    assert batcher.predict([1], kind="a", count=1) == [2]
    assert batcher.predict([2], kind="b", count=1) == [4]
    assert model.calls == [[1], [2]]


@pytest.mark.parametrize("flavors", [{"sklearn": {}, "python_function": {}}, {"xgboost": {}}])
def test_libraries_that_look_at_each_row_alone_are_batched(flavors: dict[str, object]) -> None:
    assert is_batchable(flavors)


@pytest.mark.parametrize("flavors", [{"python_function": {}}, {"statsmodels": {}, "python_function": {}}, {}])
def test_nothing_is_assumed_of_others(flavors: dict[str, object]) -> None:
    assert not is_batchable(flavors)


@pytest.mark.parametrize("make", [list, np.array, pd.Series, lambda rows: pd.DataFrame({"p": rows})])
@given(tables=st.lists(st.lists(st.integers(-(2**31), 2**31), min_size=1, max_size=4), min_size=1, max_size=5))
def test_tables_part_as_they_met(make: Callable[[Numbers], object], tables: list[Numbers]) -> None:
    frames = [pd.DataFrame({"x": rows}) for rows in tables]
    assert len({kind_of_table(frame) for frame in frames}) == 1

    predictions = make(join_tables(frames)["x"].tolist())
    parts = split_predictions(predictions, [len(rows) for rows in tables])

    assert [pd.DataFrame(part).to_numpy().ravel().tolist() for part in parts] == tables


@pytest.mark.parametrize("predictions", [[1, 2], {"a": [1]}, "abc", np.float64(1)])
def test_other_answers_than_one_a_row_are_not_taken_apart(predictions: object) -> None:
    with pytest.raises(ValueError, match="one prediction a row"):
        split_predictions(predictions, [1, 2])


def test_tables_of_other_columns_or_types_are_of_another_kind() -> None:
    kinds = [kind_of_table(pd.DataFrame(columns)) for columns in ({"a": [1]}, {"a": [1.0]}, {"b": [1]})]

    assert len(set(kinds)) == 3
    assert kind_of_table([1, 2]) is None

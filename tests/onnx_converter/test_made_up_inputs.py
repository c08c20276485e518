"""The inputs that compare a model with its conversion: the signature's types and shapes, close to the example."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up_inputs import CannotMakeUp, make_up_tables, make_up_tensors, with_gaps

COLUMNS: list[dict[str, Any]] = [
    {"name": "age", "type": "double"},
    {"name": "rooms", "type": "long"},
    {"name": "city", "type": "string"},
    {"name": "new", "type": "boolean"},
]
EXAMPLE = pd.DataFrame({"age": [30.0, 50.0], "rooms": [2, 5], "city": ["Oslo", "Rome"], "new": [True, False]})


def test_tables_have_the_columns_of_the_signature_and_begin_with_the_example() -> None:
    first, one_row, *others = make_up_tables(COLUMNS, EXAMPLE)

    assert first is EXAMPLE
    assert len(one_row) == 1
    for table in others:
        assert [str(kind) for kind in table.drop(columns="city").dtypes] == ["float64", "int64", "bool"]
        assert set(table["city"]) <= {"Oslo", "Rome"}
        assert table["rooms"].between(2, 5).all()
    assert max(len(table) for table in others) > 100


def test_the_same_signature_always_gives_the_same_inputs() -> None:
    for one, other in zip(make_up_tables(COLUMNS, EXAMPLE), make_up_tables(COLUMNS, EXAMPLE), strict=True):
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ({"name": "city", "type": "string"}, "no input example with values for the text column 'city'"),
        ({"name": "when", "type": "datetime"}, "cannot generate values for 'when' of type datetime"),
        ({"name": "tags", "type": "array", "items": {"type": "string"}}, "for 'tags' of type array"),
    ],
)
def test_no_values_are_generated_for_unknown_columns(column: dict[str, Any], reason: str) -> None:
    with pytest.raises(CannotMakeUp, match=reason):
        make_up_tables([column], None)


def test_only_floating_point_numbers_can_be_missing() -> None:
    table = make_up_tables(COLUMNS, EXAMPLE)[-1]

    gaps = with_gaps(COLUMNS, table)

    assert gaps["age"].isna().any()
    assert not gaps["age"].isna().all()
    assert not gaps[["rooms", "city", "new"]].isna().any().any()
    assert not table["age"].isna().any()
    assert with_gaps(COLUMNS[1:], table) is None


def test_tensors_have_the_shape_of_the_signature_with_open_sides_from_the_example() -> None:
    without = make_up_tensors((-1, 8, None, 3), "float32", None)
    with_example = make_up_tensors((-1, 8, None, 3), "float32", np.zeros((2, 8, 5, 3)).tolist())

    assert {batch.shape[1:] for batch in without} == {(8, 16, 3)}
    assert {batch.shape[1:] for batch in with_example} == {(8, 5, 3)}
    assert with_example[0].shape[0] == 2
    assert {str(batch.dtype) for batch in (*without, *with_example)} == {"float32"}
    assert {1, 5} <= {batch.shape[0] for batch in without}


def test_integers_stay_within_the_range_of_the_example() -> None:
    batches = make_up_tensors((-1, 4), "int64", [[3, 4, 5, 6]])

    assert all(batch.min() >= 3 and batch.max() <= 6 for batch in batches)


def test_strings_in_tensors_are_not_generated() -> None:
    with pytest.raises(CannotMakeUp, match="type object"):
        make_up_tensors((-1,), "object", None)

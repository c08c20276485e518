"""What a request will cost, estimated before it is used: at least what Python, pandas and NumPy then need."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.pyfunc import scoring_server

from fargate_service.memory.costs import answer_cost, csv_cost, document_cost, json_cost, json_passing_cost

MB = 10**6
# Objects of pandas that exist once for every table.
_ALWAYS = MB // 10
few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module", autouse=True)
def pandas() -> None:
    """Imports what the first table of a process imports."""
    scoring_server.infer_and_parse_data({"dataframe_split": {"columns": ["a"], "data": [[0.5]]}})
    scoring_server.parse_csv_input(io.StringIO("a\n0.5"))


def peak(work: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        kept = work()
        assert kept is not None
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def estimate(body: bytes) -> int:
    """Returns the higher of what is reserved until the body is parsed, and after that."""
    at_first = json_cost(body)
    return max(at_first, at_first - json_passing_cost(body) + document_cost(json.loads(body)))


REPEATED = {
    "numbers": b"1.25,",
    "whole numbers": b"123456,",
    "texts": b'"ab",',
    "wide texts": '"aaaaaaaaaaaaaaaaaaaaaaaaaaaa\U0001f600",'.encode(),
    "escaped wide texts": b'"aaaaaaaaaaaaaaaaaaaaaaaaaaaa\\ud83d\\ude00",',
    "empty lists": b"[],",
    "short lists": b"[1],",
    "lists of lists": b"[[[[]]]],",
    "empty objects": b"{},",
    "small objects": b'{"a":1},',
    "nested objects": b'{"a":{"b":{"c":1.5}}},',
    "objects of six": b'{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1},',
}


@pytest.mark.parametrize("name", REPEATED)
def test_parsing_costs_at_most_what_is_estimated_from_the_bytes(name: str) -> None:
    body = b"[" + REPEATED[name] * 20_000 + b"0]"

    assert peak(lambda: json.loads(body)) < json_cost(body)


def test_different_keys_cost_at_most_what_is_estimated() -> None:
    body = json.dumps({f"k{number}": 0.5 + number for number in range(30_000)}).encode()

    assert peak(lambda: json.loads(body)) < json_cost(body)


def test_an_estimate_is_not_far_above_the_cost_of_ordinary_tables() -> None:
    table = {"dataframe_split": {"columns": list("abcdef"), "data": [[0.123456789 + i] * 6 for i in range(5000)]}}
    body = json.dumps(table).encode()

    assert estimate(body) < 15 * len(body)


leaf = st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers(-(2**70), 2**70) | st.text(max_size=30)
value = st.recursive(leaf, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner), max_leaves=60)


@few
@given(value, st.sampled_from(["utf-8", "utf-16", "utf-32"]), st.booleans())
def test_any_document_costs_at_most_what_is_estimated(document: Any, encoding: str, is_ascii: bool) -> None:
    one = json.dumps(document, ensure_ascii=is_ascii)
    body = f"[{','.join([one] * 50)}]".encode(encoding, "surrogatepass")

    assert peak(lambda: json.loads(body)) < json_cost(body) + 100_000


rows = st.integers(1, 300)
columns = st.integers(1, 40)


@few
@given(rows, columns, st.sampled_from(["split", "records", "instances", "inputs"]))
def test_a_table_costs_at_most_what_is_estimated(rows: int, columns: int, form: str) -> None:
    names = [f"c{number}" for number in range(columns)]
    data = [[0.5 + number for number in range(columns)] for _ in range(rows)]
    records = [dict(zip(names, row, strict=True)) for row in data]
    document = {
        "split": {"dataframe_split": {"columns": names, "data": data}},
        "records": {"dataframe_records": records},
        "instances": {"instances": records},
        "inputs": {"inputs": data},
    }[form]
    body = json.dumps(document).encode()

    assert peak(lambda: scoring_server.infer_and_parse_data(json.loads(body))) < estimate(body) + _ALWAYS


SPARSE = [{f"k{number}": 1} for number in range(16_000)]
HOSTILE = {
    "records with different keys": {"dataframe_records": SPARSE},
    "one wide row among short ones": {"dataframe_records": [[0] * 16_000, *[[]] * 16_000]},
    "split rows with different keys": {"dataframe_split": {"data": SPARSE}},
    "one wide split row": {"dataframe_split": {"data": [[0] * 16_000, *[[]] * 16_000]}},
    "one value for all rows and columns": {
        "dataframe_split": {"index": [0] * 16_000, "columns": [0] * 16_000, "data": 1}
    },
    "no data for all rows and columns": {
        "dataframe_split": {"index": [0] * 16_000, "columns": [0] * 16_000, "data": []}
    },
    "columns with different row labels": {"dataframe_split": {"data": {f"c{i}": {f"r{i}": 1} for i in range(16_000)}}},
    "one long text among short ones": {"inputs": [*["a"] * 10_000, "b" * 100_000]},
    "one long text among numbers": {"instances": [*[1] * 10_000, "b" * 100_000]},
    "a long text in a named input": {"inputs": {"a": [*["a"] * 10_000, "b" * 100_000]}},
    "a long text in a record": {"instances": [*[{"a": "b"}] * 10_000, {"a": "b" * 100_000}]},
    "a long text in a nested list": {"inputs": [[["a"] * 10_000], [["b" * 100_000]]]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_document_for_a_large_table_is_recognized(name: str) -> None:
    assert document_cost(HOSTILE[name]) > 2000 * MB


WRONG = [None, 1, "text", [], {}, [[]], [None, 1], {"data": None}, {"index": 3, "columns": "ab", "data": {"a": 1}}]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("form", ["dataframe_split", "dataframe_records", "instances", "inputs"])
def test_a_document_of_the_wrong_type_has_a_small_cost(form: str, wrong: Any) -> None:
    assert 0 <= document_cost({form: wrong}) < 10_000
    assert document_cost(wrong) < 10_000


@few
@given(rows, columns, st.sampled_from(["0.5", "text", ""]), st.sampled_from(["\n", "\r\n"]))
def test_csv_costs_at_most_what_is_estimated(rows: int, columns: int, cell: str, end: str) -> None:
    body = "".join([",".join(f"c{i}" for i in range(columns)) + end, *[",".join([cell] * columns) + end] * rows])

    assert peak(lambda: scoring_server.parse_csv_input(io.StringIO(body))) < csv_cost(body.encode()) + _ALWAYS


@pytest.mark.parametrize(
    "body",
    [
        b"," * 20_000 + b"\n" + b"1\n" * 20_000,
        b"\n\n\n" + b"," * 20_000 + b"\n" + b"1\n" * 20_000,
        b'"a\nb"' + b"," * 20_000 + b"\n" + b"1\n" * 20_000,
        b"a\n" + b"," * 20_000 + b"\n" + b"1\n" * 20_000,
        b"," * 20_000 + b"\r" + b"1\r" * 20_000,
    ],
)
def test_a_small_csv_for_a_large_table_is_recognized(body: bytes) -> None:
    assert csv_cost(body) > 10_000 * MB


@pytest.mark.parametrize("body", [b"", b"\n", b"\xff\xfe\x00", b'"', b'"' + b"x" * 200_000, b"a,b\n1,2"])
def test_any_csv_has_a_cost(body: bytes) -> None:
    assert 0 < csv_cost(body) < 10 * MB


@pytest.mark.parametrize(
    "answer", [[0.123456789] * 50_000, [[0.5, 0.25]] * 20_000, ["text" * 20] * 5000, [{"a": 1.5}] * 20_000]
)
def test_an_answer_costs_at_most_what_is_estimated(answer: Any) -> None:
    def encode() -> bytes:
        text = io.StringIO()
        scoring_server.predictions_to_json(answer, text)
        return text.getvalue().encode()

    assert peak(encode) < answer_cost(answer)

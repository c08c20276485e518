"""Large JSON documents are decoded row by row, to the same as by Python's own decoder."""

from __future__ import annotations

import gc
import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fargate_service.errors import RequestError
from fargate_service.memory.json_body import InPieces, parse_json
from fargate_service.memory.reservation import current_reservation

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=40,
)


def decoded(text: str, decoder: type[json.JSONDecoder] | None) -> Any:
    """Returns the document, or what is wrong with it."""
    try:
        return json.loads(text, cls=decoder)
    except json.JSONDecodeError as error:
        return str(error)


@given(values, st.sampled_from([None, 0, 2]))
def test_documents_are_decoded_as_by_python(document: Any, indent: int | None) -> None:
    assert decoded(json.dumps(document, indent=indent), InPieces) == document


@given(values, st.data())
def test_what_is_wrong_with_a_document_is_said_as_by_python(document: Any, data: st.DataObject) -> None:
    text = json.dumps({"inputs": [document], "b": document})
    at = data.draw(st.integers(0, len(text) - 1))
    broken = text[:at] + data.draw(st.sampled_from(["", "]", "}", ",", " ", "x", "["])) + text[at + 1 :]

    assert decoded(broken, InPieces) == decoded(broken, None)


@pytest.mark.parametrize("text", ["", "[", "{", "[[", "[{", '{"a"', '{"a":', "[ ]", "[ [1], 2 ]", "NaN", "[] []"])
def test_short_documents_are_decoded_as_by_python(text: str) -> None:
    assert repr(decoded(text, InPieces)) == repr(decoded(text, None))


@pytest.mark.parametrize("form", ["[{}]", "[1, {}, 2]", '{{"a": {}}}', '[{{"a": {}}}]'])
@pytest.mark.parametrize("levels", [2, 100, 200])
def test_documents_of_more_levels_than_permitted_are_refused(form: str, levels: int) -> None:
    text = "1"
    for _ in range(levels // (form.count("[") + form.count("{{"))):
        text = form.format(text)

    assert parse_json(text.encode(), current_reservation(), max_levels=levels) == json.loads(text)
    with pytest.raises(RequestError, match=rf"more than {levels - 1} levels \(MAX_JSON_LEVELS\)"):
        parse_json(text.encode(), current_reservation(), max_levels=levels - 1)


@pytest.mark.slow
def test_other_threads_continue_while_a_large_table_is_decoded() -> None:
    text = '{"dataframe_split":{"data":[' + "[1.5,2.5,3.5,4.5,5.5],\n" * 300_000 + "[1]]}}"
    longest, is_done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal longest
        before = time.monotonic()
        while not is_done.wait(0.001):
            longest, before = max(longest, time.monotonic() - before), time.monotonic()

    def longest_pause(decoder: type[json.JSONDecoder] | None) -> float:
        nonlocal longest
        longest = 0.0
        is_done.clear()
        watcher = threading.Thread(target=watch)
        watcher.start()
        gc.disable()  # a collection also pauses all threads, but not for as long
        json.loads(text, cls=decoder)
        gc.enable()
        is_done.set()
        watcher.join()
        return longest

    assert longest_pause(InPieces) < longest_pause(None) / 2

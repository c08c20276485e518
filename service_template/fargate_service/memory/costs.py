"""How much memory a request will need, from above and before it is used. Pure.

Bodies are bounded twice. Counting separators in the bytes bounds the values in them before anything is parsed: a comma
or a bracket inside a text is counted too, which only makes the estimate higher. What is parsed then shows the size of
the table, which can have far more cells than the body has values: records with different keys, a single value for all
rows and columns, short rows next to a long one.

The constants are bytes of CPython and pandas objects on a 64-bit system, the worst of each kind, rounded up; a test
measures them.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

BODY = 2  # received in pieces, and joined

_VALUE = 48  # a float, and its place in a list
_LIST = 96  # with the room that its first value gets
_DICT = 256  # with the room for its first five keys
_KEY = 120  # a key's text and its place, while the table grows
_TEXT = 72  # a short string
_CELL = 48  # in a table: as an object, as its column's type, and as what the model's own code copies
_ROW = 64
_ANSWER = 256
_COLUMN = 2000  # each column is an object that is checked by itself
_NAMES = 24  # a message that lists all columns, in its copies, and its traceback
_COUNTED_QUOTES = 10_000
_SHORT_BYTES = 4000
_HEAD_BYTES = 1_000_000  # of CSV: what is read before anything is reserved


def json_cost(body: bytes) -> int:
    """Returns the bytes for the document in `body`, and for a table with as many cells as it has values."""
    values, width = _values(body), _text_width(body)
    return _document_cost(body, values, width) + _passing_cost(body, values, width)


def json_passing_cost(body: bytes) -> int:
    """Returns the part of `json_cost` that is only needed until the document is parsed, or is estimated better then."""
    return _passing_cost(body, _values(body), _text_width(body))


def _passing_cost(body: bytes, values: int, width: int) -> int:
    # The table is built when the text is gone.
    return max(width * len(body), _CELL * values)


def _document_cost(body: bytes, values: int, width: int) -> int:
    lists, dicts = _count_of(body, "["), _count_of(body, "{")
    keys, texts = _count_of(body, ":"), _count_of(body, '"') // 2 + 1
    containers = lists * _LIST + dicts * _DICT + keys * _KEY
    return values * _VALUE + containers + texts * _TEXT + width * _quoted_bytes(body)


def _values(body: bytes) -> int:
    return sum(_count_of(body, one) for one in ",[{") + 1


def _count_of(body: bytes, character: str) -> int:
    # Four times as fast as bytes' own `count`, and much more for frequent characters; but not for short bodies.
    if len(body) < _SHORT_BYTES:
        return body.count(character.encode())
    return int(np.count_nonzero(np.frombuffer(body, "uint8") == ord(character)))


def csv_cost(body: bytes) -> int:
    """Returns the bytes for the table in a CSV body: every row is as wide as the header or the first row."""
    rows = _count_of(body, "\n") + _count_of(body, "\r") + 1
    try:
        columns = max(map(len, _first_records(body, 2)), default=1)  # the header, and a row
    except csv.Error:  # a field longer than the module permits, for example
        columns = _count_of(body, ",") + 1
    try:
        names = sum(map(len, *(_first_records(body, 1) or [[]])))
    except csv.Error:
        names = len(body)
    texts = min(rows * columns, _count_of(body, ",") + rows)
    # pandas reads a StringIO, which keeps four bytes for each character.
    as_text = 4 + 2 * _text_width(body)  # the body as a whole, and its parts
    return table_cost(rows, columns) + texts * _TEXT + as_text * len(body) + _NAMES * names


def repetition_cost(body: bytes) -> int:
    """Returns how many names pandas compares to rename the columns of a CSV body that have the name of another one."""
    try:
        header = next(iter(_first_records(body, 1)), [])
    except csv.Error:  # a name longer than the module permits: all could be the same
        return _count_of(body, ",") ** 2
    return len(header) * (len(header) - len(set(header)))


def _first_records(body: bytes, count: int) -> list[list[str]]:
    """csv.Error also if they are longer than the beginning that is read for them."""
    text = io.TextIOWrapper(io.BytesIO(body[:_HEAD_BYTES]), "utf-8", "replace", newline="")
    records = list(itertools.islice(filter(None, csv.reader(text)), count))
    if len(body) > _HEAD_BYTES and not text.readline():
        raise csv.Error
    return records


def table_cost(rows: int, columns: int) -> int:
    """Returns the bytes for a pandas table."""
    return rows * columns * _CELL + rows * _ROW + columns * _COLUMN


def document_cost(document: Any) -> int:
    """Returns the bytes for what MLflow makes of a parsed body: a table, or arrays."""
    if not isinstance(document, dict):
        return 0
    cost = 0
    if isinstance(split := document.get("dataframe_split"), dict):
        cost += _split_cost(split)
    if isinstance(records := document.get("dataframe_records"), list):
        cost += _rows_cost(records)
    for key in ("instances", "inputs"):
        named = document.get(key)
        cost += sum(map(_array_cost, named.values() if isinstance(named, dict) else [named]))
        cost += _names_cost(named if isinstance(named, dict) else _keys(named) if isinstance(named, list) else ())
    return cost


def answer_cost(answer: Any) -> int:
    """Returns the bytes for a model's answer as JSON: as Python's objects, in a StringIO, as text and as bytes."""
    return _ANSWER * int(getattr(answer, "size", 0) or _count(answer))


def image_cost(width: int, height: int, *, bytes_per_pixel: int, out: tuple[int, int], channels: int) -> int:
    """Returns the bytes to decode an image and resize it to `out`, height and width, as float32.

    Pillow keeps four bytes for a pixel, and resizes in two steps: first the rows, then the columns.
    """
    resized = 4 * (out[1] * height + out[0] * out[1])
    scaled = out[0] * out[1] * channels * (1 + 8 + 4)  # as bytes, divided as float64, and float32
    return width * height * bytes_per_pixel + resized + scaled


def _text_width(body: bytes) -> int:
    """Returns the bytes for each character: four in a text with a single wide one."""
    # A single byte is found in a fraction of the time.
    return 1 if body.isascii() and (b"\\" not in body or b"\\u" not in body) else 4


def _quoted_bytes(body: bytes) -> int:
    """Returns how much of a JSON body is in quotes, or more: numbers are most of a large table."""
    # Other encodings have a quote's byte in other characters, and escaped quotes begin nothing.
    if not body.isascii() or b"\0" in body or b"\\" in body or _count_of(body, '"') > _COUNTED_QUOTES:
        return len(body)
    quoted, begin = 0, body.find(b'"')
    while begin >= 0 and (end := body.find(b'"', begin + 1)) >= 0:
        quoted += end - begin
        begin = body.find(b'"', end + 1)
    return len(body) if begin >= 0 else quoted


def _split_cost(split: dict[str, Any]) -> int:
    data, names = split.get("data"), split.get("columns")
    rows, columns = _length(split.get("index")), _length(names)
    cost = _names_cost(names if isinstance(names, list | dict) else ())
    if isinstance(data, dict):  # by column: lists, or values by row label
        rows, columns = max(rows, sum(map(_length, data.values()))), max(columns, len(data))
        return cost + table_cost(rows, columns) + _names_cost(data)
    return cost + _rows_cost(data if isinstance(data, list) else [], rows=max(rows, 1), columns=columns)


def _rows_cost(data: Sequence[Any], *, rows: int = 0, columns: int = 1) -> int:
    """The columns of a table of these rows: all keys of those with keys, the values of the longest of the others."""
    keys = _keys(data)
    longest = max((len(row) for row in data if isinstance(row, list)), default=1)
    return table_cost(max(rows, len(data)), max(columns, len(keys), longest)) + _names_cost(keys)


def _keys(rows: Iterable[Any]) -> set[str]:
    return {key for row in rows if isinstance(row, dict) for key in row}


def _names_cost(names: Iterable[Any]) -> int:
    return _NAMES * sum(len(name) for name in names if isinstance(name, str))


def _array_cost(value: Any) -> int:
    """NumPy gives every text of an array the length of the longest, with four bytes for each character."""
    count, longest, waiting = 0, 0, [value]
    while waiting:
        one = waiting.pop()
        values = list(one.values()) if isinstance(one, dict) else one if isinstance(one, list) else [one]
        kinds = set(map(type, values))
        if kinds & {list, dict}:
            waiting += values
            continue
        count += len(values)
        if str in kinds:
            longest = max(longest, *map(len, filter(_is_text, values)))
    return count * max(_CELL, 4 * longest)


def _count(value: Any) -> int:
    if isinstance(value, str):
        return 1 + len(value) // 16
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return int(getattr(value, "size", 1))
    return sum(map(_count, value)) if any(isinstance(one, list | dict | str) for one in value) else len(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 0

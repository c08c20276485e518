"""Encodes a document as JSON while it is being sent, so that a large table is not in memory a second time, as text.

Values without a JSON type: NaN, NaT and NA become null, bytes base64, times ISO 8601; infinity is rejected.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from mlflow_fargate.errors import InvalidOption

_CHUNK_CHARACTERS = 1 << 18
_VALUES_AT_ONCE = 10_000  # encoded at once: about 200 kB of numbers
_LOOKED_AT = 16


class Rows:
    """A DataFrame as a list of rows, each created on access."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def __len__(self) -> int:
        return len(self._frame)

    def __getitem__(self, part: slice) -> list[list[Any]]:
        # As objects: a single array for all columns would turn integers next to floats into floats.
        rows = self._frame.iloc[part].astype(object)
        made: list[list[Any]] = rows.where(rows.notna(), None).to_numpy().tolist()
        return made


class JsonStream:
    """The JSON of `document` in chunks of about 250 kB; each iteration starts over, so a request can be repeated."""

    def __init__(self, document: Any) -> None:
        self._document = document

    def __iter__(self) -> Iterator[bytes]:
        waiting: list[str] = []
        length = 0
        for text in _texts(self._document):
            waiting.append(text)
            length += len(text)
            if length > _CHUNK_CHARACTERS:
                yield "".join(waiting).encode()
                waiting, length = [], 0
        yield "".join(waiting).encode()

    def body(self) -> bytes | JsonStream:
        """Returns the request's body: bytes, with a known length, if one chunk is enough; else the stream."""
        first = list(islice(self, 2))
        return first[0] if len(first) == 1 else self


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for number, (key, item) in enumerate(value.items()):
            yield f"{', ' if number else '{'}{json.dumps(str(key))}: "
            yield from _texts(item)
        yield "}" if value else "{}"
    elif isinstance(value, list | tuple | Rows) or getattr(value, "ndim", False):
        yield from _array_texts(value)
    else:
        yield _dumps(value)


def _array_texts(array: Any) -> Iterator[str]:
    at_once = int(_VALUES_AT_ONCE / _count_of_each(array[:_LOOKED_AT]))
    step = max(at_once, 1)
    yield "["
    for start in range(0, len(array), step):
        yield ", " if start else ""
        part = array[start : start + step]
        # A slice of small elements at once, without its brackets; a large element chunk by chunk.
        if at_once:
            yield _dumps(part)[1:-1]
        else:
            yield from _texts(part[0])
    yield "]"


def _count_of_each(values: Any) -> float:
    """Estimates how many numbers or short strings an element contains, by sampling nested ones."""
    return max(sum(map(_count, values)) / max(len(values), 1), 1.0)


def _count(value: Any) -> float:
    if isinstance(value, str | bytes):
        return 1 + len(value) / 16
    if isinstance(value, Mapping):
        return len(value) * _count_of_each(list(islice(value.values(), _LOOKED_AT)))
    if isinstance(value, list | tuple):
        return len(value) * _count_of_each(value[:_LOOKED_AT])
    return float(getattr(value, "size", 1))


def _dumps(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError):
        # There is a NaN, or a key that is not a string: encode again, value by value.
        return json.dumps(_jsonable(value), allow_nan=False)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return _finite(value)
    if value is None or isinstance(value, str | int):
        return value
    return _jsonable(_plain(value))


def _plain(value: Any) -> Any:
    """Converts a value without a JSON type to the closest one."""
    if isinstance(value, set | frozenset):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return value.tolist()
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode("ascii")
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "__float__"):  # Decimal and Fraction as well
        return _finite(float(value))
    raise InvalidOption(f"A {type(value).__name__} cannot be sent to a model as JSON.")


def _finite(number: float) -> float | None:
    if math.isinf(number):
        raise InvalidOption("Infinity cannot be sent: JSON has no infinite numbers.", hint="replace or drop it")
    return None if math.isnan(number) else number

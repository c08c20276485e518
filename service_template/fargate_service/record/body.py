"""What is recorded of a body: its text up to a limit, or the name, size and SHA-256 of each file.

`Columns` removes or hashes values by the names of their columns; a body in which columns have no names is not recorded.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_TEXTS = ("", "application/json", "application/x-ndjson", "application/x-www-form-urlencoded")
_TABLES = frozenset({"dataframe_split", "dataframe_records", "inputs", "instances"})  # of MLflow's protocol


class Body:
    """A body while it passes; `take_room(bytes)` returns whether there is memory for that much more."""

    def __init__(self, content_type: bytes, is_encoded: bool, limit: int, take_room: Callable[[int], bool]) -> None:
        self.media_type = content_type[:256].partition(b";")[0].strip().decode("ascii", "replace").lower()
        self.is_text = not is_encoded and (
            self.media_type in _TEXTS or self.media_type.startswith("text/") or self.media_type.endswith("+json")
        )
        self.is_too_large = self.is_lost = False
        self.held = 0  # bytes
        self.files: list[dict[str, Any]] = []  # of a form, from the route that reads them
        self._limit, self._take_room = limit, take_room
        self._pieces: list[bytes] = []
        self._size, self._digest = 0, hashlib.sha256()

    def feed(self, data: bytes) -> None:
        if not self.is_text:
            self._size += len(data)
            self._digest.update(data)
        elif data and not self.is_too_large and not self.is_lost:
            self.is_too_large = self.held + len(data) > self._limit
            if not self.is_too_large and self._take_room(len(data)):
                self.held += len(data)
                self._pieces.append(data)
            else:
                self.is_lost = not self.is_too_large
                self._pieces.clear()

    def text(self) -> str:
        """Returns what is recorded of it; ValueError if it is not the text that its media type promises."""
        if self.is_text:
            return b"".join(self._pieces).decode()
        return json.dumps(self.files or [{"name": None, "size": self._size, "sha256": self._digest.hexdigest()}])


@dataclass(frozen=True)
class Columns:
    """Columns that are not recorded, and those of which only a keyed hash is."""

    drop: frozenset[str]
    hashed: frozenset[str]
    key: bytes = b""

    def hide(self, text: str, media_type: str, *, is_request: bool) -> str:
        """Returns `text` without these columns; ValueError if it has columns without names, or is not JSON or CSV."""
        if not self.drop and not self.hashed:
            return text
        if media_type == "text/csv":
            return self._hide_csv(text)
        document = json.loads(text)
        if is_request:
            _check_named(document)
        return json.dumps(self._hide(document))

    def _hide(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._hide(item) for item in value]
        if not isinstance(value, dict):
            return value
        names, rows = value.get("columns"), value.get("data")
        if isinstance(names, list) and isinstance(rows, list):
            places = [place for place, name in enumerate(names) if name not in self.drop]
            if any(not isinstance(row, list) or len(row) != len(names) for row in rows):
                raise ValueError("rows of another length than the columns")
            data = [[self._value(names[place], row[place]) for place in places] for row in rows]
            return {**value, "columns": [names[place] for place in places], "data": data}
        return {name: self._value(name, one) for name, one in value.items() if name not in self.drop}

    def _hide_csv(self, text: str) -> str:
        header, *rows = csv.reader(io.StringIO(text))
        if not {*self.drop, *self.hashed} & set(header):
            raise ValueError("no header")
        table = self._hide({"columns": header, "data": [row for row in rows if row]})
        output = io.StringIO()
        csv.writer(output, lineterminator="\n").writerows([table["columns"], *table["data"]])
        return output.getvalue()

    def _value(self, name: Any, value: Any) -> Any:
        if name not in self.hashed:
            return self._hide(value)
        if isinstance(value, list):
            return [self._value(name, item) for item in value]
        return hmac.digest(self.key, json.dumps(value, sort_keys=True).encode(), "sha256").hex()


def _check_named(document: Any) -> None:
    """Raises ValueError if the document has a table whose columns have no names."""
    tables = (
        [value for name, value in document.items() if name in _TABLES] if isinstance(document, dict) else [document]
    )
    for table in tables:
        if isinstance(table, dict) and not ("data" in table and not isinstance(table.get("columns"), list)):
            continue
        if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
            raise ValueError("a table without names")


def recorded_text(body: Body, columns: Columns, *, is_request: bool) -> tuple[str | None, str | None]:
    """Returns what is recorded of a body and, if it is not, why: a code as in Databricks' inference tables."""
    side = "REQUEST" if is_request else "RESPONSE"
    if body.is_too_large:
        return None, f"MAX_{side}_SIZE_EXCEEDED"
    with suppress(ValueError, RecursionError, csv.Error, TypeError):
        text = body.text()
        hidden = columns.hide(text, body.media_type, is_request=is_request) if body.is_text and text else text
        return hidden, None
    return None, f"{side}_NOT_READABLE"

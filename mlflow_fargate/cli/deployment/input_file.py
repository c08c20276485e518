"""What `predict` sends: a file of JSON, CSV, or an image. Which one it is, its name or its first bytes say."""

from __future__ import annotations

import csv
import json
from io import StringIO
from typing import Any, BinaryIO

from mlflow_fargate.errors import InvalidOption

# https://developer.mozilla.org/en-US/docs/Web/Media/Guides/Formats/Image_types
_IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_IMAGE_NAMES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")
_JSON_STARTS = '{["-0123456789tfnN'
_EXAMPLE = """for example: {"dataframe_records": [{"age": 42, "plan": "basic"}]}"""


def read_input(file: BinaryIO) -> Any:
    """Returns the inputs for `FargateDeploymentClient.predict`: parsed JSON, a DataFrame, or an image's bytes.

    Raises InvalidOption for an empty or malformed file, with the line and the column.
    """
    content, name = file.read(), str(getattr(file, "name", "-")).lower()
    shown = "standard input" if name in ("-", "<stdin>") else file.name
    if not content.strip():
        raise InvalidOption(f"{shown} is empty.", hint=f"write a request to it, {_EXAMPLE}")
    if content.startswith(_IMAGE_STARTS):
        return content
    if name.endswith(_IMAGE_NAMES):
        raise InvalidOption(f"{shown} is not an image.", hint="open it in a viewer; JSON and CSV files end otherwise")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InvalidOption(
            f"{shown} is not text in UTF-8: see line {line}.",
            hint="save a spreadsheet as CSV in UTF-8; convert other text: iconv -f latin1 -t utf-8 FILE",
        ) from error
    is_table = name.endswith((".csv", ".tsv")) or (shown == "standard input" and text.lstrip()[0] not in _JSON_STARTS)
    return _parse_table(text, shown, "\t" if name.endswith(".tsv") else ",") if is_table else _parse_json(text, shown)


def _parse_json(text: str, shown: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        hint = "name a CSV file *.csv" if "," in text.partition("\n")[0] and text.lstrip()[0] not in "{[" else _EXAMPLE
        raise InvalidOption(f"{shown} is not JSON: {error.msg} ({where}).", hint=hint) from error
    except RecursionError as error:
        raise InvalidOption(f"{shown} is not a request: it is nested too deeply.", hint=_EXAMPLE) from error


def _parse_table(text: str, shown: str, separator: str) -> Any:
    import pandas  # noqa: PLC0415  # takes a second to load

    rows = csv.reader(StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        reason = _reason_against(rows)
    except csv.Error as error:
        reason = f"{error} (line {rows.line_num})"
    if reason:
        advice = "the first line names the columns; quote values that contain commas"
        raise InvalidOption(f"{shown} is not a table: {reason}.", hint=advice)
    return pandas.read_csv(StringIO(text), sep=separator)


def _reason_against(rows: Any) -> str | None:
    """Returns what pandas would read otherwise than it is meant: it takes some ragged lines for an index."""
    header = next(rows)
    if twice := sorted({name for name in header if header.count(name) > 1}):
        return f"two columns are named {twice[0]!r}"
    for row in rows:
        if row and len(row) != len(header):
            return f"line {rows.line_num} has {len(row)} columns, and the first line {len(header)}"
    return None if rows.line_num > 1 else "it has no rows below the names of its columns"

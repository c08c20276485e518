"""What `predict` sends: a file of JSON, CSV, or an image. Which one it is, its name or its first bytes say."""

from __future__ import annotations

import csv
import json
import re
from io import StringIO
from typing import Any, BinaryIO

from mlflow_fargate.errors import InvalidOption

# https://developer.mozilla.org/en-US/docs/Web/Media/Guides/Formats/Image_types
_IMAGE = re.compile(rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP|BM.{4}\0{4}|II\*\0|MM\0\*", re.DOTALL)
_TABLE_NAMES = (".csv", ".tsv")
_IMAGE_NAMES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_FLOAT = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_EXAMPLE = """for example: {"dataframe_records": [{"age": 42, "plan": "basic"}]}"""


def read_input(file: BinaryIO) -> Any:
    """Returns the inputs for `FargateDeploymentClient.predict`: parsed JSON, a DataFrame, or an image's bytes.

    Raises InvalidOption for an empty or malformed file, with the line and the column.
    """
    content, name = file.read(), str(getattr(file, "name", "-")).lower()
    shown = "standard input" if name in ("-", "<stdin>") else file.name
    if not content.strip():
        raise InvalidOption(f"{shown} is empty.", hint=f"write a request to it, {_EXAMPLE}")
    if not name.endswith(_TABLE_NAMES) and _IMAGE.match(content):
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
    if name.endswith(_TABLE_NAMES) or (shown == "standard input" and _is_piped_table(text)):
        return _parse_table(text, shown, "\t" if name.endswith(".tsv") else ",")
    return _parse_json(text, shown)


def _is_piped_table(text: str) -> bool:
    first = text.lstrip().partition("\n")[0]
    if first.startswith(("{", "[")) or not ("," in first or "\n" in text.strip()):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return True
    return False


def _parse_json(text: str, shown: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        hint = "name a CSV file *.csv" if "," in text.partition("\n")[0] and text.lstrip()[0] not in "{[" else _EXAMPLE
        raise InvalidOption(f"{shown} is not JSON: {error.msg} ({where}).", hint=hint) from error
    except (RecursionError, ValueError) as error:
        reason = "a number is too long" if isinstance(error, ValueError) else "it is nested too deeply"
        raise InvalidOption(f"{shown} is not a request: {reason}.", hint=_EXAMPLE) from error


def _parse_table(text: str, shown: str, separator: str) -> Any:
    import pandas  # noqa: PLC0415  # takes a second to load

    rows = csv.reader(StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        reason = _reason_against(rows, separator)
    except csv.Error as error:
        reason = f"{error} (line {rows.line_num})"
    if reason:
        advice = (
            "the first line names the columns; a .csv has commas between them, a .tsv tabs; quote values with commas"
        )
        raise InvalidOption(f"{shown} is not a table: {reason}.", hint=advice)
    table = pandas.read_csv(StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    columns = {name: pandas.Series(_typed(list(table[name])), dtype=object) for name in table}
    return pandas.DataFrame({name: one if one.hasnans else one.infer_objects() for name, one in columns.items()})


def _typed(cells: list[str]) -> list[Any]:
    """Returns a column as numbers or truth values if that changes no value (00501 is a text); empty: missing."""
    present = [cell for cell in cells if cell]
    read: Any = str
    if all(map(_INTEGER.fullmatch, present)):
        read = int
    elif all(map(_FLOAT.fullmatch, present)) and re.search(r"[.+]|e-", " ".join(present), re.IGNORECASE):
        read = float
    elif {cell.lower() for cell in present} <= {"true", "false"}:
        read = "true".__eq__
        cells = [cell.lower() for cell in cells]
    return [read(cell) if cell else None for cell in cells]


def _reason_against(rows: Any, separator: str) -> str | None:
    """Returns what pandas would read otherwise than it is meant: it takes some ragged lines for an index."""
    header = next(rows)
    if len(header) == 1 and (other := re.search(r"[;,\t|]", header[0])):
        return f"its columns are separated by {other[0]!r}, not by {separator!r}"
    if twice := sorted({name for name in header if header.count(name) > 1}):
        return f"two columns are named {twice[0]!r}"
    for row in rows:
        if row and len(row) != len(header):
            return (
                f"line {rows.line_num} has {len(row)} column{'s' * (len(row) != 1)}, and the first line {len(header)}"
            )
    return None if rows.line_num > 1 else "it has no rows below the names of its columns"

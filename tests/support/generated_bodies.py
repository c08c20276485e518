"""Bodies for MLflow's scoring protocol, drawn at random: most fit a signature, the others nearly do."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

JSON, CSV = "application/json", "text/csv"
Row = list[Any]
Body = tuple[bytes, str]

_PLAIN: Mapping[str, Callable[[random.Random], Any]] = {
    "double": lambda rng: rng.choice([rng.gauss(0, 3), rng.randint(-5, 5), round(rng.random(), 2), rng.random() * 1e9]),
    "float": lambda rng: rng.choice([rng.gauss(0, 3), rng.randint(-5, 5), 16_777_217, 0.1]),
    "long": lambda rng: rng.choice([rng.randint(-5, 5), rng.randint(-(2**62), 2**62)]),
    "integer": lambda rng: rng.randint(-(2**31), 2**31 - 1),
    "boolean": lambda rng: rng.random() < 0.5,
    "string": lambda rng: rng.choice(["red", "green", "", "é€𝄞", "a,b", 'quo"te', "line\nbreak", "1.5", "NaN", "null"]),
}
_ODD: Sequence[Any] = [
    None, None, None, True, False, 0, -0.0, 1, 2.0, 0.5, 5e-324, 1e300, 2**31, -(2**31) - 1, 2**53 + 1, 2**63 - 1,
    2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 2**70, 10**30, 10**400, float("nan"), float("inf"), "1.5", "7",
    "abc", "", " 1", "1_0", "True", "nan", "2020-01-02", [], [1.0], [[2]], {}, {"a": 1},
]  # fmt: skip


def draw_body(rng: random.Random, names: Sequence[str], kinds: Sequence[str]) -> Body:
    """Returns a body for a table with these columns, or for an array if there are no names; and its type."""
    rows = [[_PLAIN[kind](rng) for kind in kinds] for _ in range(rng.choice([1, 1, 1, 2, 3, 9]))]
    if rng.random() < 0.3:
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            rng.choice(rows)[rng.randrange(len(kinds))] = rng.choice(_ODD)
    if names and rng.random() < 0.1:
        return _csv(rng, names, rows), CSV
    forms = ["dataframe_split", "dataframe_split", "dataframe_records", "instances", "inputs"]
    document = _document(rng.choice(forms if names else forms[3:]), list(names), rows)
    if rng.random() < 0.3:
        document = rng.choice(_CHANGES)(rng, document)
    content_type = JSON if rng.random() < 0.95 else rng.choice(_TYPES)
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, None, None, 1]))
    return (text.encode("utf-8") if rng.random() < 0.95 else rng.choice(_ENCODINGS)(rng, text)), content_type


def _document(form: str, names: list[str], rows: list[Row]) -> dict[str, Any]:
    if not names:
        return {form: rows}
    if form == "dataframe_split":
        return {form: {"columns": names, "data": rows}}
    if form == "inputs":
        return {form: {name: [row[at] for row in rows] for at, name in enumerate(names)}}
    return {form: [dict(zip(names, row, strict=True)) for row in rows]}


def _csv(rng: random.Random, names: Sequence[str], rows: list[Row]) -> bytes:
    names, rows = list(names), [list(row) for row in rows]
    if rng.random() < 0.2:
        names[rng.randrange(len(names))] = rng.choice([*names, "other", ""])
    if rng.random() < 0.1:
        rng.choice(rows).pop()
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=rng.choice(["\n", "\n", "\r\n"]))
    writer.writerows([names, *rows])
    text = file.getvalue()
    return rng.choice([text, text, text, text.rstrip(), f"\ufeff{text}", f"{text}\n\n", text[:-3], ""]).encode()


def _in_table(change: Callable[[random.Random, Any], Any]) -> Callable[[random.Random, Any], Any]:
    """Changes the first list of rows, columns or records in the document."""

    def changed(rng: random.Random, document: dict[str, Any]) -> Any:
        ((form, content),) = document.items()
        if isinstance(content, dict) and "data" in content:
            return {form: {**content, "data": change(rng, content["data"])}}
        return {form: change(rng, content)}

    return changed


def _shorter(rng: random.Random, content: Any) -> Any:
    if isinstance(content, dict):
        content = dict(content)
        name = rng.choice(list(content))
        content[name] = content[name][:-1]
        return content
    at = rng.randrange(len(content))
    one = content[at]
    less = one[:-1] if isinstance(one, list) else dict(list(one.items())[:-1])
    return [*content[:at], less, *content[at + 1 :]]


def _longer(rng: random.Random, content: Any) -> Any:
    if isinstance(content, dict):
        return {**content, rng.choice(["other", *content]): rng.choice([[1.0], [], 3, "x"])}
    at = rng.randrange(len(content))
    one = content[at]
    more = [*one, 1.0] if isinstance(one, list) else {**one, "other": 1.0}
    return [*content[:at], more, *content[at + 1 :]]


def _reordered(rng: random.Random, content: Any) -> Any:
    if isinstance(content, dict):
        return dict(rng.sample(list(content.items()), len(content)))
    return [dict(rng.sample(list(one.items()), len(one))) if isinstance(one, dict) else one for one in content]


def _other_content(rng: random.Random, document: dict[str, Any]) -> Any:
    return dict.fromkeys(document, rng.choice([None, [], {}, 1, "x", [1.0, 2.0], [[]], [[[1.0]]], [{}], [None]]))


def _split_changed(rng: random.Random, document: dict[str, Any]) -> Any:
    split = dict(document.get("dataframe_split") or {"columns": ["x"], "data": [[1.0]]})
    columns, data = split["columns"], split["data"]
    split.update(
        rng.choice(
            [
                {"index": list(range(len(data)))},
                {"index": [5] * len(data)},
                {"index": None},
                {"columns": None},
                {"columns": columns[::-1]},
                {"columns": [*columns[:-1], columns[0]]},
                {"columns": [*columns[:-1], 3]},
                {"columns": [*columns, "other"], "data": [[*row, 1] for row in data]},
                {"more": 1},
            ]
        )
    )
    if rng.random() < 0.1:
        split.pop("columns")
    return {"dataframe_split": split}


_CHANGES: Sequence[Callable[[random.Random, Any], Any]] = [
    _in_table(_shorter),
    _in_table(_longer),
    _in_table(_reordered),
    _in_table(_reordered),
    _in_table(lambda _, content: content[:0] if isinstance(content, list) else {}),
    _other_content,
    _split_changed,
    _split_changed,
    lambda _, document: {**document, "params": {"factor": 2.0}},
    lambda _, document: {**document, "params": {}},
    lambda _, document: {**document, "other": 1},
    lambda _, document: {**document, "inputs": [[1.0]], "instances": [[1.0]]},
    lambda _, document: {"dataframe": document},
    lambda rng, document: rng.choice([[document], [], {}, 1, "x", None]),
]
_ENCODINGS: Sequence[Callable[[random.Random, str], bytes]] = [
    lambda _, text: b"\xef\xbb\xbf" + text.encode(),
    lambda _, text: text.encode("utf-16"),
    lambda _, text: text.encode().replace(b'"', b'"\xff', 1),
    lambda rng, text: text.encode()[: rng.randrange(len(text))],
    lambda _, text: text.encode() + b"]",
    lambda _, text: text.encode() + b"\n ",
    lambda _, text: text.replace(":", ":\t").encode(),
    lambda _, text: text.replace("{", '{"dataframe_split": 1, ', 1).encode(),  # a key twice
    lambda _, text: text.replace(", ", ",,", 1).encode(),
    lambda _, text: text.replace("0", "00", 1).encode(),
    lambda _, text: text.replace("1", "1e999", 1).encode(),
    lambda _, text: text.replace("1", "1" * 5000, 1).encode(),
    lambda _, text: text.replace("1", "1E2", 1).encode(),
    lambda _, text: text.replace('"', '"\\ud800', 1).encode(),
]
_TYPES = [
    f"{JSON}; charset=utf-8",
    f"{JSON};charset=UTF-8",
    f"{JSON}; charset=latin-1",
    f"{JSON}; x=y",
    "text/plain",
    CSV,
]

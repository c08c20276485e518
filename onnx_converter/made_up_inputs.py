"""Generates inputs of a model's types and shapes, near its input example if it has one. Pure and deterministic.

Predictions are compared only on these inputs, so they are near the example and far from it, one row and many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_SEED = 20260101
_BATCHES = (1, 5)
_ROWS = (1, 7, 512)
_FAR = 20.0
_MISSING = 0.2  # of the numbers of a table
_OPEN_LENGTH = 16  # of a dimension of any length, without an example
_INTEGERS = {"integer": "int32", "long": "int64"}
_NUMBERS = {"float": "float32", "double": "float64"}


class CannotMakeUp(Exception):
    """An input's values are unknown; the message names the input."""


def make_up_tensors(shape: Sequence[int | None], dtype: Any, example: Any | None) -> list[np.ndarray]:
    """Returns batches for an input of `shape`, where -1 or None is any length; the batch comes first."""
    kind = np.dtype(dtype)
    given = None if example is None else np.asarray(example)
    if given is not None and (given.ndim != len(shape) or not given.size or given.dtype.kind not in "biuf"):
        given = None
    generator = np.random.default_rng(_SEED)
    found = [] if given is None else [given.astype(kind)]
    sides = [_length(side, None if given is None else given.shape[place]) for place, side in enumerate(shape)]
    batches = _BATCHES if shape[0] in (-1, None) else sides[:1]
    found += [_numbers(generator, kind, (rows, *sides[1:]), given) for rows in batches]
    if kind.kind == "f":
        found.append((generator.normal(size=(batches[0], *sides[1:])) * _FAR).astype(kind))
    return found


def make_up_tables(columns: Sequence[Mapping[str, Any]], example: Any | None) -> list[Any]:
    """Returns tables with the columns of a signature; `example` is a table or None."""
    import pandas as pd  # noqa: PLC0415  # a model of tensors may be served without it

    given = example if isinstance(example, pd.DataFrame) and len(example) else None
    generator = np.random.default_rng(_SEED)

    def table(rows: int, spread: float) -> Any:
        return pd.DataFrame({_name(one): _column(generator, one, rows, given, spread) for one in columns})

    found = [] if given is None else [given, given.head(1)]
    return [*found, *(table(rows, 1.0) for rows in _ROWS), table(_ROWS[-1], _FAR)]


def with_gaps(columns: Sequence[Mapping[str, Any]], table: Any) -> Any | None:
    """Returns `table` with missing numbers in columns that allow them; None if no column does."""
    numbers = [_name(one) for one in columns if one.get("type") in _NUMBERS]
    gaps = np.random.default_rng(_SEED).random((len(table), len(numbers))) < _MISSING
    return table.assign(**table[numbers].mask(gaps)) if numbers else None


def _column(
    generator: np.random.Generator, column: Mapping[str, Any], rows: int, example: Any | None, spread: float
) -> Any:
    kind, name = str(column.get("type")), _name(column)
    given = None if example is None or name not in example else example[name].dropna().to_numpy()
    if kind in _NUMBERS:
        numbers = np.zeros(1) if given is None or not given.size else given.astype("float64")
        width = spread * max(float(numbers.std()), 1.0 if numbers.std() == 0 else 0.0)
        return (numbers.mean() + width * generator.normal(size=rows)).astype(_NUMBERS[kind])
    if kind in _INTEGERS:
        return _numbers(generator, np.dtype(_INTEGERS[kind]), (rows,), given)
    if kind == "boolean":
        return generator.random(rows) < 0.5
    if kind == "string" and given is not None and given.size:
        return generator.choice(given.astype(object), rows)
    if kind == "string":
        raise CannotMakeUp(f"it has no input example with values for the text column '{name}'")
    raise CannotMakeUp(f"cannot generate values for '{name}' of type {kind}")


def _numbers(generator: np.random.Generator, kind: np.dtype[Any], shape: tuple[int, ...], given: Any | None) -> Any:
    """Returns numbers from 0 to 1, integers within the example's range, because codes can have a limited range."""
    if kind.kind == "f":
        return generator.random(shape).astype(kind)
    if kind.kind == "b":
        return generator.random(shape) < 0.5
    if kind.kind in "iu":
        low, high = (0, 9) if given is None or not given.size else (int(given.min()), int(given.max()))
        return generator.integers(low, high, shape, endpoint=True).astype(kind)
    raise CannotMakeUp(f"cannot generate an input of type {kind}")


def _length(side: int | None, of_example: int | None) -> int:
    if side not in (-1, None):
        return int(side or 0)
    return of_example or _OPEN_LENGTH


def _name(column: Mapping[str, Any]) -> str:
    return str(column["name"])

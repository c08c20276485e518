"""Reads JSON bodies that fit a model's signature exactly, without a cast of each column. Needs orjson and pandas.

MLflow's own code reads everything else: bodies with other columns or keys, other types than the signature's, or numbers
that orjson reads differently than Python (whole numbers beyond 64 bits). What is read here is the table, or the array,
that MLflow gives the model for the same body: equal values, types, names and memory layout. A test compares both.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
import pandas as pd
from mlflow.types import DataType, Schema

from fargate_service.settings import DocumentLimits

# Python, and MLflow with it, converts whole numbers to `float` directly: the same only where `double` is exact.
_BELOW = {8: 2.0**63, 4: 2.0**53}
_NUMBERS = (DataType.double, DataType.float, DataType.long, DataType.integer)
_OTHERS = (DataType.boolean, DataType.string)
_WITH_GAPS = frozenset({int, float, bool, type(None)})
_QUOTED = ',"\r\n\ufeff'  # in CSV
LEVELS = 5  # of lists and objects, at most, in a body that is read here


class ExactInput:
    """What the bodies of several requests have in common that fit the same signature."""

    def __init__(self, schema: Schema) -> None:
        self.width = 0  # columns; of arrays, nothing is needed for each column
        self._header = b""  # of CSV; empty: MLflow reads it
        self._read: dict[str, Callable[[Any], list[Any] | None]] = {}
        self._join: Callable[[list[Any]], Any]
        if schema.is_tensor_spec():
            self._expect_array(schema)
        else:
            self._expect_table(schema)

    @property
    def is_known(self) -> bool:
        """Whether there are any bodies that can be read here."""
        return bool(self._read)

    def rows(self, body: bytes) -> list[Any] | None:
        """Returns the rows in `body`, to be joined; None if MLflow has to read it."""
        try:
            document = orjson.loads(body)
        except ValueError:
            return None
        if type(document) is not dict or len(document) != 1:
            return None
        ((form, content),) = document.items()
        return self._read[form](content) if form in self._read else None

    def join(self, rows: list[Any]) -> Any | None:
        """Returns the model's input with all of these rows; None if MLflow has to read them."""
        return self._join(rows)

    def table_in(self, body: bytes) -> pd.DataFrame | None:
        """Returns the table in a CSV body that has the signature's columns, all of them numbers; else None."""
        line = body[: len(self._header) + 2]
        if not self._header or not line.startswith((self._header + b"\n", self._header + b"\r\n")):
            return None
        types = [kind.to_numpy() for kind in self._kinds]
        # A type for all columns takes pandas less time, and so do bytes; MLflow refuses other encodings.
        dtype = types[0] if len(set(types)) == 1 else dict(zip(self._names, types, strict=True))
        try:
            body.decode()
            table = pd.read_csv(io.BytesIO(body), dtype=dtype)
        except Exception:  # MLflow reports it
            return None
        is_plain = type(table.index) is pd.RangeIndex and list(table.columns) == self._names and len(table)
        return table if is_plain and list(table.dtypes) == types else None

    def _expect_array(self, schema: Schema) -> None:
        if schema.has_input_names() or len(schema.inputs) != 1:
            return
        spec = schema.inputs[0]
        if spec.type.kind not in "fi" or spec.type.itemsize not in _BELOW or len(spec.shape) >= LEVELS:
            return
        self._shape, self._type = spec.shape, spec.type
        self._read = {"instances": _filled, "inputs": _filled}
        self._join = self._array

    def _expect_table(self, schema: Schema) -> None:
        kinds = schema.input_types()
        if not schema.has_input_names() or not all(kind in (*_NUMBERS, *_OTHERS) for kind in kinds):
            return
        self._names, self._kinds = schema.input_names(), kinds
        if len(set(self._names)) != len(self._names):
            return
        self._columns, self.width = pd.Index(self._names), len(self._names)
        self._read = {"dataframe_split": self._split, "dataframe_records": self._records}
        if all(kind in _NUMBERS for kind in kinds):
            self._read |= {"instances": self._records, "inputs": self._by_column}
            is_quoted = any(not name or set(name) & set(_QUOTED) for name in self._names)
            self._header = b"" if is_quoted else ",".join(self._names).encode()
        is_uniform = len(set(kinds)) == 1 and kinds[0] in _NUMBERS
        self._join = self._one_block if is_uniform else self._by_kind

    def _split(self, content: Any) -> list[Any] | None:
        if type(content) is not dict or content.get("columns") != self._names:
            return None
        rows = _filled(content.get("data"))
        # pandas writes an index, too; other labels than these would be the model's input.
        is_numbered = rows is not None and _is_numbered(content.get("index"), len(rows))
        return rows if len(content) == 2 or (len(content) == 3 and is_numbered) else None

    def _records(self, content: Any) -> list[Any] | None:
        records, names = _filled(content), self._names
        if records is None or any(type(one) is not dict or len(one) != len(names) for one in records):
            return None
        try:
            return [[one[name] for name in names] for one in records]
        except KeyError:
            return None

    def _by_column(self, content: Any) -> list[Any] | None:
        if type(content) is not dict or len(content) != len(self._names):
            return None
        columns = [content.get(name) for name in self._names]
        if any(type(one) is not list for one in columns):
            return None
        try:
            return list(zip(*columns, strict=True)) or None
        except ValueError:
            return None

    def _array(self, rows: list[Any]) -> np.ndarray | None:
        array = _numbers(rows, self._type)
        if array is None or array.ndim != len(self._shape):
            return None
        fits = all(side in (-1, length) for side, length in zip(self._shape, array.shape, strict=True))
        return array if fits else None

    def _one_block(self, rows: list[Any]) -> pd.DataFrame | None:
        array = _numbers(rows, self._kinds[0].to_numpy())
        if array is None or array.ndim != 2 or array.shape[1] != len(self._names):
            return None
        # In pandas a block has one row per column; with another layout, sums of products differ in the last digit.
        return pd.DataFrame(np.asfortranarray(array), columns=self._columns, copy=False)

    def _by_kind(self, rows: list[Any]) -> pd.DataFrame | None:
        if any(type(row) not in (list, tuple) or len(row) != len(self._names) for row in rows):
            return None
        columns = list(map(_column, zip(*rows, strict=True), self._kinds))
        if any(one is None for one in columns):
            return None
        return pd.DataFrame(dict(zip(self._names, columns, strict=True)))


def _filled(value: Any) -> list[Any] | None:
    return value if type(value) is list and value and type(value[0]) in (list, dict) else None


def _is_numbered(index: Any, count: int) -> bool:
    return type(index) is list and index == list(range(count)) and {int}.issuperset(map(type, index))


def _column(values: Sequence[Any], kind: DataType) -> Any | None:
    if kind in _NUMBERS:
        array = _numbers(values, kind.to_numpy())
        return array if array is not None and array.ndim == 1 else None
    expected = bool if kind == DataType.boolean else str
    if any(type(value) is not expected for value in values):
        return None
    return np.array(values) if expected is bool else pd.Series(list(values))


def _numbers(values: Sequence[Any], dtype: np.dtype[Any]) -> np.ndarray | None:
    """Returns an array of `values`, which are numbers, or missing where `dtype` has a value for that."""
    try:
        array = np.array(values)
    except ValueError:  # of different lengths
        return None
    if array.dtype.kind == "O" and dtype.kind == "f" and _have_gaps(values, array.ndim):
        array = array.astype("float64")
    if not array.size or array.dtype.kind not in ("if" if dtype.kind == "f" else "i"):
        return None
    if dtype.kind == "f":
        is_in_range = np.fmax.reduce(np.abs(array), axis=None) < _BELOW[dtype.itemsize]
    else:
        limits = np.iinfo(dtype)
        is_in_range = limits.min <= array.min() and array.max() <= limits.max
    return array.astype(dtype, copy=False) if is_in_range else None


def _have_gaps(values: Sequence[Any], levels: int) -> bool:
    for _ in range(levels - 1):
        values = list(itertools.chain.from_iterable(values))
    return _WITH_GAPS.issuperset(map(type, values))


def read_exactly(metadata: Any, limits: DocumentLimits) -> ExactInput | None:
    """Returns what reads bodies that fit the signature; None if there is none that says all about the input."""
    schema = metadata.get_input_schema()
    depends = metadata.get_params_schema() or metadata._is_signature_from_type_hint()
    if schema is None or depends or metadata._is_type_hint_from_example() or limits.max_levels < LEVELS:
        return None
    exact = ExactInput(schema)
    return exact if exact.is_known else None

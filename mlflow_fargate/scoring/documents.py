"""Converts the caller's inputs (tables, arrays, lists, dicts) to a document of MLflow's scoring protocol.

Source: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/#json-input
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.scoring.json_stream import Rows

_TABLE_KEYS = ("dataframe_split", "dataframe_records")
_TENSOR_KEYS = ("instances", "inputs")
_CHAT_KEYS = ("messages", "prompt", "input")
_SPLIT_KEYS = frozenset({"columns", "data", "index"})


def make_document(inputs: Any) -> Any:
    """Returns `inputs` as an `/invocations` request: a dict with one of MLflow's keys.

    The Python type decides what is sent. A DataFrame is a table whatever its columns are called, a dict of arrays is
    named tensors whatever their names. Raises InvalidOption for tables that JSON cannot describe.
    """
    if is_frame(inputs):
        return _split(inputs)
    if hasattr(inputs, "to_frame"):
        return _split(inputs.to_frame())
    if isinstance(inputs, Mapping):
        return inputs if _is_document(inputs) else {"inputs": inputs}
    if isinstance(inputs, list | tuple) and inputs and all(isinstance(row, Mapping) for row in inputs):
        return {"dataframe_records": inputs}
    return {"inputs": inputs}


def is_frame(inputs: Any) -> bool:
    """Returns whether it is a pandas DataFrame or behaves like one."""
    return hasattr(inputs, "columns") and hasattr(inputs, "iloc")


def document_in_frame(frame: Any) -> Any:
    """Returns the request that `mlflow deployments predict` read as a table, or `frame` if the file was a table.

    MLflow reads any input file with `pandas.read_json`: {"inputs": […]} becomes a column `inputs`,
    {"dataframe_split": {…}} a column with the rows `columns` and `data`.
    """
    if len(frame.columns) != 1 or frame.columns[0] not in (*_TABLE_KEYS, *_TENSOR_KEYS):
        return frame
    key, cells = frame.columns[0], frame.iloc[:, 0].tolist()
    names = frame.index.tolist()
    if key == "dataframe_split":
        return {key: dict(zip(names, cells, strict=True))} if set(names) <= _SPLIT_KEYS else frame
    if key == "dataframe_records":
        return {key: cells} if all(isinstance(cell, dict) for cell in cells) else frame
    return {key: dict(zip(names, cells, strict=True)) if all(isinstance(name, str) for name in names) else cells}


def _split(frame: Any) -> dict[str, Any]:
    if max(getattr(axis, "nlevels", 1) for axis in (frame.index, frame.columns)) > 1:
        raise InvalidOption(
            "A DataFrame with a multi-level index or multi-level columns cannot be sent as JSON.",
            hint="flatten them first, for example with reset_index()",
        )
    # Rows that are numbered from 0 need no labels: that is how a table without an index is read.
    is_numbered = (getattr(frame.index, "start", None), getattr(frame.index, "step", None)) == (0, 1)
    index = {} if is_numbered else {"index": frame.index}
    return {"dataframe_split": {**index, "columns": list(frame.columns), "data": Rows(frame)}}


def _is_document(inputs: Mapping[Any, Any]) -> bool:
    """Returns whether a dict is a request of MLflow's protocol, rather than named tensors or columns."""
    if any(getattr(value, "ndim", 0) for value in inputs.values()):
        return False
    if any(key in inputs for key in _TABLE_KEYS):
        return True
    if any(key in inputs for key in _TENSOR_KEYS):
        # {"inputs": [[1]], "mask": [[1]]} are two tensors; next to MLflow's key, only settings are allowed.
        return not any(isinstance(value, list | tuple) for key, value in inputs.items() if key not in _TENSOR_KEYS)
    return any(_is_chat(inputs[key], inputs) for key in _CHAT_KEYS if key in inputs)


def _is_chat(value: Any, inputs: Mapping[Any, Any]) -> bool:
    """Returns whether a value under one of the chat keys is a text or messages.

    Texts in a list are a column, unless a setting such as {"n": 2}, which no column can be, is next to it.
    """
    if not isinstance(value, list | tuple):
        return isinstance(value, str | Mapping)
    if value and all(isinstance(one, Mapping) for one in value):
        return True
    has_setting = any(not isinstance(other, list | tuple) for other in inputs.values())
    return has_setting and all(isinstance(one, str | Mapping) for one in value)

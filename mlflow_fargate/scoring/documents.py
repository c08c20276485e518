"""Converts the caller's inputs (tables, arrays, lists, dicts) to a document of MLflow's scoring protocol.

Source: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/#json-input
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_fargate.scoring.json_stream import Rows

_TABLE_KEYS = ("dataframe_split", "dataframe_records")
_TENSOR_KEYS = ("instances", "inputs")
_PROTOCOL_KEYS = frozenset({*_TABLE_KEYS, *_TENSOR_KEYS, "messages", "prompt", "input"})
_SPLIT_KEYS = frozenset({"columns", "data", "index"})


def make_document(inputs: Any) -> Any:
    """Returns `inputs` as an `/invocations` request: a dict with one of MLflow's keys."""
    if is_frame(inputs):
        return _unwrapped(inputs) or _split(inputs)
    if hasattr(inputs, "to_frame"):
        return _split(inputs.to_frame())
    if isinstance(inputs, Mapping):
        return inputs if _PROTOCOL_KEYS & inputs.keys() else {"inputs": inputs}
    if isinstance(inputs, list | tuple) and inputs and all(isinstance(row, Mapping) for row in inputs):
        return {"dataframe_records": inputs}
    return {"inputs": inputs}


def is_frame(inputs: Any) -> bool:
    """Returns whether it is a pandas DataFrame or behaves like one."""
    return hasattr(inputs, "columns") and hasattr(inputs, "iloc")


def _split(frame: Any) -> dict[str, Any]:
    return {"dataframe_split": {"columns": list(frame.columns), "data": Rows(frame)}}


def _unwrapped(frame: Any) -> dict[str, Any] | None:
    """Returns the request that `mlflow deployments predict` read as a table, or None if `frame` is a table.

    MLflow reads any input file with `pandas.read_json`: {"inputs": […]} becomes a column `inputs`,
    {"dataframe_split": {…}} a column with the rows `columns` and `data`.
    """
    if len(frame.columns) != 1 or frame.columns[0] not in (*_TABLE_KEYS, *_TENSOR_KEYS):
        return None
    key, cells = frame.columns[0], frame.iloc[:, 0].tolist()
    names = frame.index.tolist()
    if key == "dataframe_split":
        return {key: dict(zip(names, cells, strict=True))} if set(names) <= _SPLIT_KEYS else None
    if key == "dataframe_records":
        return {key: cells} if all(isinstance(cell, dict) for cell in cells) else None
    return {key: dict(zip(names, cells, strict=True)) if all(isinstance(name, str) for name in names) else cells}

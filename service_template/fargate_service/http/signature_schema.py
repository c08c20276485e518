"""Converts a model's signature, as in MLmodel, to JSON Schema for requests to `/invocations`. Pure.

Source of the types: https://mlflow.org/docs/latest/ml/model/signatures
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

JsonSchema = dict[str, Any]

_ANYTHING: JsonSchema = {}
_SCALARS: Mapping[str, JsonSchema] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "format": "int32"},
    "long": {"type": "integer", "format": "int64"},
    "float": {"type": "number", "format": "float"},
    "double": {"type": "number", "format": "double"},
    "string": {"type": "string"},
    "binary": {"type": "string", "format": "byte"},
    "datetime": {"type": "string", "example": "2026-01-31T12:00:00"},  # without a zone, so not JSON Schema's date-time
}


def make_request_schema(metadata: Mapping[str, Any]) -> JsonSchema:
    """Returns the schema of a request body from an MLmodel file: MLflow's input formats, and params if it has any.

    Agents and chat models have their inputs at the top; models with type hints only have `inputs`.
    """
    inputs = _read(metadata.get("signature"), "inputs")
    params = _read(metadata.get("signature"), "params")
    if str((metadata.get("metadata") or {}).get("task")).startswith("agent/"):
        return _row([*inputs, *params])
    spellings = _tensor_spellings(inputs) if _are_tensors(inputs) else _table_spellings(inputs)
    if metadata.get("is_signature_from_type_hint") and inputs:
        spellings = {"inputs": {"type": "array", "items": _type(inputs[0])}}
    more = {"params": _params(params)} if params else {}
    return {
        "oneOf": [
            {"type": "object", "title": name, "properties": {name: schema, **more}, "required": [name]}
            for name, schema in spellings.items()
        ]
    }


def make_answer_schema(signature: Mapping[str, Any] | None) -> JsonSchema:
    """Returns the schema of a response body, as far as it applies to every way in which MLflow writes predictions."""
    outputs = _read(signature, "outputs")
    described = {"description": ", ".join(map(_describe, outputs))} if outputs else {}
    return {"type": "object", "properties": {"predictions": described}, "required": ["predictions"]}


def describe_signature(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the parts of a signature with the name and type of each column, tensor or parameter, for people."""
    parts = ("inputs", "outputs", "params")
    return [(part, _describe(one)) for part in parts for one in _read(metadata.get("signature"), part)]


def _read(signature: Mapping[str, Any] | None, part: str) -> Sequence[Mapping[str, Any]]:
    text = (signature or {}).get(part)
    document = json.loads(text) if text else []
    # Signatures from type hints and old versions can contain one type instead of a list.
    return document if isinstance(document, list) else []


def _are_tensors(inputs: Sequence[Mapping[str, Any]]) -> bool:
    return bool(inputs) and all("tensor-spec" in one for one in inputs)


def _table_spellings(columns: Sequence[Mapping[str, Any]]) -> dict[str, JsonSchema]:
    """Returns the formats for a table; without a signature they accept anything."""
    if not columns:
        anything = {"type": "array", "items": _ANYTHING}
        split = {"type": "object", "properties": {"columns": anything, "data": anything}, "required": ["data"]}
        return {"dataframe_split": split, "dataframe_records": anything, "instances": anything, "inputs": _ANYTHING}
    row = _row(columns)
    named = row["properties"]
    table = {
        "type": "object",
        "properties": {
            "columns": {"type": "array", "items": {"type": "string"}, "example": list(named)},
            "data": {"type": "array", "items": {"type": "array", "items": _ANYTHING}},
        },
        "required": ["columns", "data"],
    }
    columnwise = {
        "type": "object",
        "properties": {name: {"type": "array", "items": one} for name, one in named.items()},
    }
    rows = {"type": "array", "items": row}
    return {"dataframe_split": table, "dataframe_records": rows, "instances": rows, "inputs": columnwise}


def _row(columns: Sequence[Mapping[str, Any]]) -> JsonSchema:
    named = {str(column.get("name", number)): _nullable(column) for number, column in enumerate(columns)}
    required = [str(column.get("name", number)) for number, column in enumerate(columns) if _is_required(column)]
    return {"type": "object", "properties": named, **({"required": required} if required else {})}


def _tensor_spellings(inputs: Sequence[Mapping[str, Any]]) -> dict[str, JsonSchema]:
    if len(inputs) == 1:
        tensor = _tensor(inputs[0])
        return {"instances": tensor, "inputs": tensor}
    named = {str(one.get("name", number)): _tensor(one) for number, one in enumerate(inputs)}
    by_name: JsonSchema = {"type": "object", "properties": named, "required": list(named)}
    return {"instances": {"type": "array", "items": {"type": "object"}}, "inputs": by_name}


def _tensor(one: Mapping[str, Any]) -> JsonSchema:
    """Returns nested arrays, as deep as the shape; -1 is any length."""
    spec = one["tensor-spec"]
    kind = str(spec["dtype"])
    numbers = {"type": "integer"} if kind.startswith(("int", "uint")) else {"type": "number"}
    schema: JsonSchema = numbers if kind.startswith(("int", "uint", "float")) else dict(_ANYTHING)
    for length in reversed(spec["shape"]):
        fixed = {"minItems": length, "maxItems": length} if length >= 0 else {}
        schema = {"type": "array", "items": schema, **fixed}
    return {**schema, "description": _describe(one)}


def _type(column: Mapping[str, Any]) -> JsonSchema:
    kind = column.get("type")
    if kind == "array":
        return {"type": "array", "items": _type(column.get("items", {}))}
    if kind == "map":
        return {"type": "object", "additionalProperties": _type(column.get("values", {}))}
    if kind == "object":
        properties = column.get("properties", {})
        required = [name for name, one in properties.items() if _is_required(one)]
        return {
            "type": "object",
            "properties": {name: _type(one) for name, one in properties.items()},
            **({"required": required} if required else {}),
        }
    return dict(_SCALARS.get(str(kind), _ANYTHING))


def _nullable(column: Mapping[str, Any]) -> JsonSchema:
    schema = _type(column)
    return schema if _is_required(column) or not schema else {**schema, "nullable": True}


def _params(params: Sequence[Mapping[str, Any]]) -> JsonSchema:
    return {"type": "object", "properties": {str(one["name"]): _param(one) for one in params}}


def _param(one: Mapping[str, Any]) -> JsonSchema:
    schema = _type(one)
    if one.get("shape"):
        schema = {"type": "array", "items": schema}
    return schema if one.get("default") is None else {**schema, "default": one["default"]}


def _is_required(column: Mapping[str, Any]) -> bool:
    return bool(column.get("required", True))


def _describe(one: Mapping[str, Any]) -> str:
    spec = one.get("tensor-spec")
    kind = f"{spec['dtype']}{list(spec['shape'])}" if spec else str(one.get("type", "any"))
    return f"{one['name']}: {kind}" if "name" in one else kind

"""The OpenAPI document of the service, which `/docs.json` returns and the Swagger page shows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from fargate_service.http.image_upload import MAX_TOP
from fargate_service.http.middleware import OPEN_PATHS
from fargate_service.http.signature_schema import make_answer_schema, make_request_schema
from fargate_service.settings import ServiceDescription

_PREDICTIONS, _STATE = "Predictions", "State of the service"
_ERRORS = {
    "400": "The body or its values are not what the model takes",
    "401": "The API key is missing or wrong",
    "406": "The model does not stream",
    "413": "The request is too large",
    "415": "The content type is missing or not supported",
    "500": "The model failed on this input",
    "503": "The service is busy or shutting down; retry after the time in Retry-After",
    "504": "The prediction took too long",
}
_ERROR_RESPONSE = {
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "error_code": {"type": "string"},
                    "message": {"type": "string"},
                    "request_id": {"type": "string", "description": "also in the header X-Request-Id and in the log"},
                },
                "required": ["error_code", "message"],
            }
        },
    },
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def make_openapi_document(
    description: ServiceDescription,
    *,
    needs_key: bool,
    metadata: Mapping[str, Any],
    max_body_bytes: int,
    example: object | None = None,
    answer: object | None = None,
) -> dict[str, Any]:
    """Returns OpenAPI 3.0 for the routes; `metadata` is the MLmodel file, whose signature defines the request body.

    `example` is the body of a request that works, `answer` what the model returned for it; None: there is none.
    The server is '.', relative to the document, so that it is valid below any prefix.
    """
    is_classifier = description.template == "image_classifier"
    paths = {
        **({"/predict_image": {"post": _predict_image()}} if is_classifier else {}),
        "/invocations": {"post": _invocations(metadata, example, answer)},
        "/ping": {"get": _plain("The model is loaded (MLflow's route; also /health)")},
        "/version": {
            "get": _plain(
                "The version of MLflow; the header X-Batching shows whether requests share predictions, and why"
            )
        },
        "/readyz": {"get": _plain("The model is loaded and has made a prediction")},
        "/livez": {"get": _plain("The process is running")},
        "/metrics": {"get": _plain("Metrics for Prometheus")},
    }
    for path, methods in paths.items():
        for method, operation in methods.items():
            operation["tags"] = [_PREDICTIONS if method == "post" else _STATE]
            if needs_key and path in OPEN_PATHS:
                operation["security"] = []
    document: dict[str, Any] = {
        "openapi": "3.0.2",
        "info": _info(description, max_body_bytes),
        "servers": [{"url": "."}],
        "tags": [{"name": _PREDICTIONS}, {"name": _STATE}],
        "paths": paths,
        "components": {},
    }
    if needs_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _info(description: ServiceDescription, max_body_bytes: int) -> dict[str, Any]:
    run = f", run {description.run_id}" if description.run_id else ""
    return {
        "title": description.title,
        "version": description.model_version or "unregistered",
        "description": f"MLflow model {description.model_uri}, flavor {description.flavor}{run}. Bodies have up to "
        f"{max_body_bytes / 10**6:g} MB (MAX_BODY_MB); a body that does not fit in the task's memory also gets 413.",
    }


def encode_document(document: object) -> bytes:
    """Returns the document in JSON; numbers that JSON does not have, such as NaN in an example, become null."""
    return json.dumps(_with_nulls(document), allow_nan=False, default=str).encode()


def _with_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _with_nulls(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _predict_image() -> dict[str, Any]:
    file = _BINARY["schema"]
    form = {"type": "object", "properties": {"image": file}, "additionalProperties": file, "minProperties": 1}
    label = {
        "type": "object",
        "properties": {
            "label": {},
            "top": {
                "type": "array",
                "items": {"type": "object", "properties": {"label": {}, "score": {"type": "number"}}},
            },
        },
        "required": ["label"],
    }
    top = {
        "name": "top",
        "in": "query",
        "required": False,
        "description": "also return this many of the most likely labels, with scores",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TOP},
    }
    return {
        "summary": "Label an image",
        "description": "An image file, as multipart form data (the field can have any name) or as the body itself. "
        "Several files in a form return a list.",
        "parameters": [top],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "image/*": _BINARY,
                "application/octet-stream": _BINARY,
            },
        },
        "responses": _responses({"oneOf": [label, {"type": "array", "items": label}]}),
    }


def _invocations(metadata: Mapping[str, Any], example: object | None, answer: object | None) -> dict[str, Any]:
    signature = metadata.get("signature")
    is_streamable = metadata.get("flavors", {}).get("python_function", {}).get("streamable", False)
    json_body: dict[str, Any] = {"schema": make_request_schema(metadata)}
    if example is not None:
        json_body["example"] = example
    csv_body = {"schema": {"type": "string", "description": "with a header row"}}
    responses = _responses(make_answer_schema(signature))
    if answer is not None:
        responses["200"]["content"]["application/json"]["example"] = answer
    if is_streamable:
        pieces = {"schema": {"type": "string", "description": "one JSON document per chunk; events end with [DONE]"}}
        responses["200"]["content"] |= {"text/event-stream": pieces, "application/x-ndjson": pieces}
    return {
        "summary": "Predictions (MLflow's protocol)",
        "description": "The model's inputs in one of the forms below; params if the model has any.",
        "requestBody": {"required": True, "content": {"application/json": json_body, "text/csv": csv_body}},
        "responses": responses,
    }


def _responses(schema: dict[str, Any]) -> dict[str, Any]:
    good = {"description": "The prediction", "content": {"application/json": {"schema": schema}}}
    return {"200": good, **{status: {"description": told, **_ERROR_RESPONSE} for status, told in _ERRORS.items()}}


def _plain(description: str) -> dict[str, Any]:
    return {"summary": description, "responses": {"200": {"description": "Yes"}}}

"""The OpenAPI document of the service: what `/docs.json` says and the Swagger page draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fargate_service.http.image_upload import MAX_FILES, MAX_TOP
from fargate_service.http.signature_schema import make_answer_schema, make_request_schema
from fargate_service.settings import ServiceDescription

_ERROR = {"$ref": "#/components/responses/Error"}
_ERROR_RESPONSE = {
    "description": "What was wrong with the request",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "error_code": {"type": "string"},
                    "message": {"type": "string"},
                    "request_id": {"type": "string", "description": "also X-Request-Id; stands in the log"},
                },
                "required": ["error_code", "message"],
            }
        },
        # What MLflow says of a content type that it cannot read.
        "text/plain": {"schema": {"type": "string"}},
    },
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def make_openapi_document(
    description: ServiceDescription, *, needs_key: bool, metadata: Mapping[str, Any], example: object | None = None
) -> dict[str, Any]:
    """OpenAPI 3.0 of the routes; `metadata` is the MLmodel file, whose signature says what may be sent.

    `example` is the body of a request that works, None when nobody knows one.
    The server is '.', relative to the document, so that it holds below any prefix.
    """
    is_classifier = description.template == "image_classifier"
    paths = {
        **({"/predict_image": {"post": _predict_image()}} if is_classifier else {}),
        "/invocations": {"post": _invocations(metadata, example)},
        "/ping": {"get": _plain("The model is loaded (MLflow's name for it; also /health)")},
        "/version": {
            "get": _plain(
                "The version of MLflow; the header X-Batching says whether requests share predictions, and why"
            )
        },
        "/readyz": {"get": _plain("The model is loaded and has answered a prediction")},
        "/livez": {"get": _plain("The process answers")},
        "/metrics": {"get": _plain("Numbers for Prometheus")},
    }
    document: dict[str, Any] = {
        "openapi": "3.0.2",
        "info": {
            "title": description.title,
            "version": description.model_version or "unregistered",
            "description": f"MLflow model {description.model_uri}, flavor {description.flavor}"
            + (f", run {description.run_id}" if description.run_id else ""),
        },
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {"responses": {"Error": _ERROR_RESPONSE}},
    }
    if needs_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


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
        "description": "also tell the scores of so many of the likeliest labels",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TOP},
    }
    return {
        "summary": "What is on an image",
        "description": "An image file, as multipart form data (the field may have any name) or as the body itself. "
        f"Up to {MAX_FILES} files in a form are answered with a list.",
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


def _invocations(metadata: Mapping[str, Any], example: object | None) -> dict[str, Any]:
    signature = metadata.get("signature")
    is_streamable = metadata.get("flavors", {}).get("python_function", {}).get("streamable", False)
    json_body: dict[str, Any] = {"schema": make_request_schema(signature)}
    if example is not None:
        json_body["example"] = example
    csv_body = {"schema": {"type": "string", "description": "with a header row"}}
    responses = _responses(make_answer_schema(signature))
    if is_streamable:
        pieces = {"schema": {"type": "string", "description": "a JSON document a piece"}}
        responses["200"]["content"] |= {"text/event-stream": pieces, "application/x-ndjson": pieces}
    return {
        "summary": "Predictions (MLflow's protocol)",
        "description": "One of dataframe_split, dataframe_records, instances and inputs; params if the model has any.",
        "requestBody": {"required": True, "content": {"application/json": json_body, "text/csv": csv_body}},
        "responses": responses,
    }


def _responses(schema: dict[str, Any]) -> dict[str, Any]:
    good = {"description": "The prediction", "content": {"application/json": {"schema": schema}}}
    return {"200": good, **dict.fromkeys(("400", "401", "406", "413", "415", "500", "503", "504"), _ERROR)}


def _plain(description: str) -> dict[str, Any]:
    return {"summary": description, "responses": {"200": {"description": "Yes"}}}

"""The OpenAPI document of the service: what `/docs.json` says and the Swagger page draws."""

from __future__ import annotations

from typing import Any

from serving_settings import ServiceDescription

_ERROR = {"$ref": "#/components/responses/Error"}
_ERROR_RESPONSE = {
    "description": "What was wrong with the request",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
            }
        }
    },
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def make_openapi_document(
    description: ServiceDescription, *, needs_key: bool, example: object | None = None
) -> dict[str, Any]:
    """OpenAPI 3.0 of the routes; `example` is the body of a request that works, None when nobody knows one.

    The server is '.', relative to the document, so that it holds below any prefix.
    """
    is_classifier = description.template == "image_classifier"
    paths = {
        **({"/predict_image": {"post": _predict_image()}} if is_classifier else {}),
        "/invocations": {"post": _tensor_invocations() if is_classifier else _invocations(example)},
        "/ping": {"get": _plain("The model is loaded (MLflow's name for it; also /health)")},
        "/version": {"get": _plain("The version of MLflow")},
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
    multipart = {"schema": {"type": "object", "properties": {"image": _BINARY["schema"]}, "required": ["image"]}}
    return {
        "summary": "What is on an image",
        "description": "One image file, as multipart form data (the field may have any name) or as the body itself.",
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": multipart, "image/*": _BINARY, "application/octet-stream": _BINARY},
        },
        "responses": _responses({"type": "object", "properties": {"label": {}}, "required": ["label"]}),
    }


def _tensor_invocations() -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {
            "instances": {"type": "array", "items": {}, "description": "a batch of images as numbers from 0 to 1"}
        },
    }
    return {
        "summary": "Scores of images given as numbers (MLflow's protocol)",
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _responses({"type": "object", "properties": {"predictions": {"type": "array", "items": {}}}}),
    }


def _invocations(example: object | None) -> dict[str, Any]:
    json_body: dict[str, Any] = {"schema": {"type": "object"}}
    if example is not None:
        json_body["example"] = example
    csv_body = {"schema": {"type": "string", "description": "with a header row"}}
    return {
        "summary": "Predictions (MLflow's protocol)",
        "description": "One of dataframe_split, dataframe_records, instances and inputs; params if the model has any.",
        "requestBody": {"required": True, "content": {"application/json": json_body, "text/csv": csv_body}},
        "responses": _responses({"type": "object", "properties": {"predictions": {}}}),
    }


def _responses(schema: dict[str, Any]) -> dict[str, Any]:
    good = {"description": "The prediction", "content": {"application/json": {"schema": schema}}}
    return {"200": good, **dict.fromkeys(("400", "401", "413", "415", "500"), _ERROR)}


def _plain(description: str) -> dict[str, Any]:
    return {"summary": description, "responses": {"200": {"description": "Yes"}}}

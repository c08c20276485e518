"""The OpenAPI document is valid JSON, whatever the model's example contains."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from fargate_service.http.openapi_document import encode_document, make_openapi_document
from fargate_service.http.routes import _read_example
from fargate_service.settings import ServiceDescription


def test_the_document_shows_the_limit_of_bodies_and_the_variable_that_sets_it() -> None:
    description = ServiceDescription("pyfunc", "sklearn", None, "models:/m/1", "m", "1", None)
    document = make_openapi_document(description, needs_key=False, metadata={}, max_body_bytes=5_000_000)

    assert "up to 5 MB (MAX_BODY_MB)" in document["info"]["description"]


def test_health_checks_have_no_lock_and_every_route_a_named_group() -> None:
    description = ServiceDescription("pyfunc", "sklearn", None, "models:/m/1", "m", "1", None)
    document = make_openapi_document(
        description, needs_key=True, metadata={}, max_body_bytes=1, example=[1], answer={"predictions": [2]}
    )

    routes = {path: next(iter(methods.values())) for path, methods in document["paths"].items()}
    assert {path for path, route in routes.items() if route.get("security") == []} == {"/ping", "/readyz", "/livez"}
    assert {path: route["tags"] for path, route in routes.items() if route["tags"] == ["Predictions"]}.keys() == {
        "/invocations"
    }
    assert routes["/invocations"]["responses"]["200"]["content"]["application/json"]["example"] == {"predictions": [2]}


def test_values_that_json_does_not_have_are_null_or_text() -> None:
    document = {"a": [float("nan"), {"b": float("-inf")}, 1.5], 2: datetime.date(2026, 1, 2), "c": "\ud800"}

    encoded = json.loads(encode_document(document), parse_constant=pytest.fail)

    assert encoded == {"a": [None, {"b": None}, 1.5], "2": "2026-01-02", "c": "\ud800"}


@pytest.mark.parametrize(
    ("content", "example"),
    [
        ('{"inputs": [1]}', {"inputs": [1]}),
        ("[1e999]", [float("inf")]),
        (f"[{'9' * 5000}]", None),
        ("[" * 101 + "]" * 101, None),
        ("[" * 900 + "]" * 900, None),
        ("[" * 100_000, None),
        ("{", None),
    ],
)
def test_an_example_that_cannot_be_shown_is_left_out(content: str, example: object, tmp_path: Path) -> None:
    (tmp_path / "serving_input_example.json").write_text(content[:20_000])

    assert _read_example(tmp_path, 100) == example

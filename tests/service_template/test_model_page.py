"""The page of a model: its facts and calls, whatever the model's author wrote."""

from __future__ import annotations

import html

import pytest

from fargate_service.http.model_page import make_model_page
from fargate_service.settings import ServiceDescription


def page(name: str = "churn", example: object | None = None, needs_key: bool = True) -> str:
    described = ServiceDescription("pyfunc", "sklearn", None, f"models:/{name}/3", name, "3", "5f1c")
    metadata = {"signature": {"inputs": '[{"name": "age \\ud800", "type": "long"}]'}}
    made = make_model_page(described, needs_key=needs_key, prefix="/churn", metadata=metadata, example=example)
    return html.unescape(bytes(made.body).decode())


def test_the_page_shows_model_version_run_signature_and_how_to_call_it() -> None:
    shown = page(example={"inputs": [float("nan"), "it's"]})

    for text in ("models:/churn/3", "5f1c", "age ?: long", "mlflow-fargate key -t TARGET --name churn", "./swagger"):
        assert text in shown
    assert """-d '{"inputs": [null, "it'\\''s"]}'""" in shown


def test_a_model_without_a_key_is_called_without_one() -> None:
    assert "API_KEY" not in page(needs_key=False)


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "\ud800", '"><img src=x>'])
def test_no_name_adds_an_element(name: str) -> None:
    described = ServiceDescription("pyfunc", "sklearn", None, name, name, name, name)
    made = make_model_page(described, needs_key=True, prefix="/a", metadata={}, example={"a": [name]})

    assert b"<script" not in made.body and b"<img" not in made.body
    assert "script-src" not in made.headers["content-security-policy"]


def test_an_example_that_is_too_long_is_replaced_by_a_short_body() -> None:
    assert """-d '{"inputs": []}'""" in page(example={"inputs": ["x" * 3000]})

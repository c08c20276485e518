"""The label of a task definition, as this release, a later one, or a person at the console wrote it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from mlflow_fargate.aws.resource_types.task_definition import LABEL, LOST, Label, read_label
from mlflow_fargate.resolved_model import Provenance

PROVENANCE = Provenance("models:/churn/1", "models:/churn/1", "f", "sklearn", "churn", "1")
WRITTEN = {"provenance": asdict(PROVENANCE), "settings": {"cpu": 512}}


def described(labels: dict[str, str]) -> dict[str, Any]:
    return {"containerDefinitions": [{"name": "model", "dockerLabels": labels}]}


def test_fields_of_a_later_release_are_ignored() -> None:
    later = {**WRITTEN, "provenance": {**asdict(PROVENANCE), "signed_by": "ana"}, "revision": 2}

    assert read_label(described({LABEL: json.dumps(later)})) == Label(PROVENANCE, {"cpu": 512})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "5",
        "{}",
        json.dumps(WRITTEN)[:-1],
        json.dumps({**WRITTEN, "provenance": None}),
        json.dumps({**WRITTEN, "provenance": {"name": "churn"}}),
        json.dumps({**WRITTEN, "settings": "cpu=512"}),
    ],
)
def test_a_damaged_label_is_a_lost_record(text: str) -> None:
    assert read_label(described({LABEL: text})) is LOST


@pytest.mark.parametrize("labels", [{}, {LABEL: json.dumps({"artifact_buckets": [], "settings": {}})}])
def test_what_is_not_a_deployment_has_no_such_label(labels: dict[str, str]) -> None:
    assert read_label(described(labels)) is None

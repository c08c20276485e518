"""The label of a task definition, as this release, a later one, or a person at the console wrote it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

import pytest

from mlflow_fargate.aws.reading.status import read_webhook
from mlflow_fargate.aws.resource_types.task_definition import LABEL, LOST, Label, read_label
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError
from mlflow_fargate.resolved_model import Provenance
from mlflow_fargate.resources import MANAGED_BY, WEBHOOK

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
        json.dumps({**WRITTEN, "provenance": {**asdict(PROVENANCE), "registered_ms": "soon"}}),
        json.dumps({**WRITTEN, "settings": "cpu=512"}),
    ],
)
def test_a_damaged_label_is_a_lost_record(text: str) -> None:
    assert read_label(described({LABEL: text})) is LOST


@pytest.mark.parametrize("labels", [{}, {LABEL: json.dumps({"artifact_buckets": [], "settings": {}})}])
def test_what_is_not_a_deployment_has_no_such_label(labels: dict[str, str]) -> None:
    assert read_label(described(labels)) is None


@dataclass
class WebhookSession:
    """An endpoint with a webhook service, whose task definition was deleted or has this label."""

    label: str | None
    own_changes: dict[Any, Any] = field(default_factory=dict)
    find = AwsSession.find

    def call(self, service: str, operation: str, /, **parameters: Any) -> dict[str, Any]:
        if operation == "describe_services":
            tags = [{"key": key, "value": value} for key, value in MANAGED_BY.items()]
            times = {"createdAt": datetime(2026, 11, 24, tzinfo=timezone.utc)}
            found = {"serviceName": WEBHOOK, "status": "ACTIVE", "taskDefinition": "arn:1", "runningCount": 1}
            network = {"networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-a"]}}}
            return {"services": [{**found, **times, **network, "tags": tags}]}
        if operation == "describe_task_definition" and self.label is not None:
            definition = described({LABEL: self.label})
            definition["containerDefinitions"][0]["image"] = "image"
            return {"taskDefinition": definition}
        code = "LoadBalancerNotFound" if service == "elbv2" else "ClientException"
        raise AwsError("no", operation=operation, code=code, meaning="absent")


@pytest.mark.parametrize("label", [None, "{", "[]"])
def test_a_webhook_service_without_its_record_can_still_be_read(label: str | None) -> None:
    session: Any = WebhookSession(label)

    found = read_webhook(session, "default")

    assert found and (found.state, found.artifact_buckets, found.settings.named) == ("FAILED", (), {})

"""The service's edge, through Flask's test client."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from fakes_webhook import FakeDeployments, FakeRegistry
from flask.testing import FlaskClient

from mlflow_fargate.webhook import create_app
from mlflow_fargate.webhook.worker import Worker

WaitUntil = Callable[[Callable[[], bool]], None]


@pytest.fixture
def client(worker: Worker) -> FlaskClient:
    client: FlaskClient = create_app(worker, ("new-secret", "old-secret")).test_client()
    return client


def signed_event(name: str, *, secret: str = "new-secret", age_seconds: int = 0) -> Mapping[str, Any]:
    body = json.dumps({"entity": "model_version_alias", "action": "created", "data": {"name": name}})
    moment = str(int(time.time()) - age_seconds)
    made = hmac.new(secret.encode(), f"id.{moment}.{body}".encode(), hashlib.sha256).digest()
    headers = {
        "X-MLflow-Signature": f"v1,{base64.b64encode(made).decode()}",
        "X-MLflow-Delivery-Id": "id",
        "X-MLflow-Timestamp": moment,
    }
    return {"data": body, "headers": headers}


def test_an_event_is_accepted_and_followed(
    client: FlaskClient, worker: Worker, deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "1")
    worker.start()
    wait_until(lambda: worker.is_ready)
    registry.promote("churn", "2")
    answer = client.post("/events", **signed_event("churn", secret="old-secret"))

    assert (answer.status_code, answer.json) == (202, {"accepted": True, "watched": True})
    wait_until(lambda: deployments.version("api") == "2")


def test_an_event_about_an_unknown_model_is_accepted_and_no_work(
    client: FlaskClient, worker: Worker, deployments: FakeDeployments, wait_until: WaitUntil
) -> None:
    worker.start()
    wait_until(lambda: worker.is_ready)
    answer = client.post("/events", **signed_event("other"))

    assert (answer.status_code, answer.json) == (202, {"accepted": True, "watched": False})
    assert deployments.lists == 1


def test_a_bad_signature_is_refused(client: FlaskClient) -> None:
    assert client.post("/events", **signed_event("churn", secret="wrong")).status_code == 401
    assert client.post("/events", data="{}").status_code == 401


def test_a_stale_event_is_refused(client: FlaskClient) -> None:
    answer = client.post("/events", **signed_event("churn", age_seconds=400))

    assert answer.status_code == 400
    assert answer.json == {"error": "The event is too old, or from a clock that differs by minutes."}


def test_a_large_body_is_refused(client: FlaskClient) -> None:
    assert client.post("/events", data=b"x" * (64 * 1024 + 1)).status_code == 413


def test_health_and_readiness_are_two_things(
    client: FlaskClient, worker: Worker, registry: FakeRegistry, deployments: FakeDeployments, wait_until: WaitUntil
) -> None:
    assert client.get("/healthz").status_code == 503
    deployments.deploy("api", "churn", "1")
    registry.error = RuntimeError("down")
    worker.start()
    wait_until(lambda: registry.looks > 0)

    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    registry.error = None
    worker.look()
    assert client.get("/readyz").status_code == 200


def test_status_tells_what_was_decided(
    client: FlaskClient, worker: Worker, registry: FakeRegistry, deployments: FakeDeployments
) -> None:
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "1")
    worker.look()
    (told,) = (client.get("/status").json or {})["deployments"]

    assert (told["name"], told["model_name"], told["is_updating"]) == ("api", "churn", False)
    assert told["action"] == {"kind": "nothing", "reason": "version 1 is deployed", "version": "1", "warning": None}


def test_events_are_posted_and_nothing_else(client: FlaskClient) -> None:
    assert client.get("/events").status_code == 405
    assert client.post("/").status_code == 404

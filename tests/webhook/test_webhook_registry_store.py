"""Stage changes pushed by a real `mlflow server` with this package's registry store, to the real routes and worker."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import waitress
from mlflow import MlflowClient

from mlflow_fargate import registry_store
from mlflow_fargate.webhook.control_loop.model_registry import MlflowModelRegistry
from mlflow_fargate.webhook.control_loop.worker import Timing, Worker
from mlflow_fargate.webhook.http.app import create_app
from support.mlflow_server import telling_server
from support.webhook_fakes import FakeDeployments

# MLflow has webhooks since 3.3.
webhook = pytest.importorskip("mlflow.entities.webhook")
WebhookAction, WebhookEntity, WebhookEvent = webhook.WebhookAction, webhook.WebhookEntity, webhook.WebhookEvent


def test_a_transition_succeeds_even_if_its_event_cannot_be_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**told: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("mlflow.webhooks.delivery.deliver_webhook", fail)
    version = SimpleNamespace(name="churn", version=2, current_stage="Production")

    assert registry_store._transition(None, lambda *told: version, "churn", "2", "Production", False) is version
    assert "could not send the stage change of 'churn' version 2" in caplog.text


def test_a_failed_transition_sends_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr("mlflow.webhooks.delivery.deliver_webhook", lambda **event: told.append(event))

    def refuse(*args: Any) -> None:
        raise ValueError("no such version")

    with pytest.raises(ValueError, match="no such version"):
        registry_store._transition(None, refuse, "churn", "9", "Production", False)
    assert told == []


@pytest.mark.exhaustive
def test_a_stage_change_on_a_server_with_our_store_starts_the_redeploy_at_once(tmp_path: Path) -> None:
    deployments = FakeDeployments()
    started = threading.Event()
    deployments.on_update = lambda name: started.set()
    deployments.deploy("api", "churn", "1")
    with telling_server(tmp_path) as uri:
        client = MlflowClient(uri)
        client.create_registered_model("churn")
        for _ in range(2):
            client.create_model_version("churn", "s3://nowhere/model")
        client.transition_model_version_stage("churn", "1", "Production")
        worker = Worker(
            connect=lambda: deployments, registry=MlflowModelRegistry(uri), timing=Timing(poll_seconds=3600)
        )
        listener = waitress.create_server(create_app(worker, ("s3cret",)), host="127.0.0.1", port=0)
        threading.Thread(target=listener.run, daemon=True).start()
        url = f"http://127.0.0.1:{listener.effective_port}/events"
        event = WebhookEvent(WebhookEntity.MODEL_VERSION_TAG, WebhookAction.SET)
        client.create_webhook("fargate", url, [event], secret="s3cret")
        # The server caches its list of webhooks for a minute, even the empty list of the first transition.
        time.sleep(61)
        worker.start()
        while not worker.is_ready:
            time.sleep(0.05)
        client.transition_model_version_stage("churn", "2", "Production", archive_existing_versions=True)
        began = time.monotonic()

        assert started.wait(20)
        print(f"{time.monotonic() - began:.2f} s from the transition to the start of the redeploy")
        assert worker.stop(5)
        assert deployments.updates == [("api", "models:/churn/2")]
        listener.close()

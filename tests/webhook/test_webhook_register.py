"""Tests registering the webhook on a real server, and its test event with the real routes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import waitress
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_fargate.cli import main
from mlflow_fargate.errors import FargateError
from mlflow_fargate.webhook.control_loop.worker import Worker
from mlflow_fargate.webhook.http.app import create_app
from mlflow_fargate.webhook.registration import EVENTS, register, send_test_event
from support.mlflow_server import telling_server

UNIT = Path(__file__).parents[2] / "examples/webhook.service"


class FakeWebhooks:
    """MLflow's webhooks in memory, in pages of one."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, object]] = {}
        self.refusal: MlflowException | None = None
        self.result = SimpleNamespace(success=True, response_status=202, response_body="", error_message=None)

    def list_webhooks(self, max_results: int | None = None, page_token: str | None = None) -> object:
        if self.refusal:
            raise self.refusal
        at = int(page_token or 0)
        page = [SimpleNamespace(webhook_id=one, **told) for one, told in list(self.kept.items())[at : at + 1]]

        class Page(list):  # type: ignore[type-arg]
            token = str(at + 1) if at + 1 < len(self.kept) else None

        return Page(page)

    def create_webhook(self, name: str, url: str, events: object, **named: object) -> object:
        self.kept[f"id-{len(self.kept)}"] = {"name": name, "url": url, "events": events, **named}
        return SimpleNamespace(webhook_id=f"id-{len(self.kept) - 1}")

    def update_webhook(self, webhook_id: str, **named: object) -> object:
        self.kept[webhook_id] |= named
        return None

    def test_webhook(self, webhook_id: str) -> object:
        return self.result


def test_registering_again_updates_the_one_webhook() -> None:
    webhooks = FakeWebhooks()
    webhooks.create_webhook("another", "https://elsewhere", ["prompt.created"])
    first = register(webhooks, "https://old/events", "old", "ours")
    second = register(webhooks, "https://new/events", "new", "ours")

    assert (first.is_new, second.is_new, first.webhook_id) == (True, False, second.webhook_id)
    ours = webhooks.kept[first.webhook_id]
    assert (ours["url"], ours["secret"], ours["events"], ours["status"]) == (
        "https://new/events", "new", list(EVENTS), "ACTIVE",
    )  # fmt: skip
    assert len(webhooks.kept) == 2


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Invalid webhook URL scheme: 'http'. Allowed schemes are: https.", "MLFLOW_WEBHOOK_ALLOWED_SCHEMES"),
        ("Webhook URL must not resolve to a private address", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS"),
        ("Internal Server Error", "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"),
    ],
)
def test_a_rejection_by_mlflow_hints_at_the_setting(said: str, hint: str) -> None:
    webhooks = FakeWebhooks()
    webhooks.refusal = MlflowException(f"{said} http://me:hunter2@host")
    with pytest.raises(FargateError, match=hint) as caught:
        register(webhooks, "https://x/events", "s", "ours")

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "FARGATE_WEBHOOK_SECRET"), (404, "/events"), (None, "reach the URL")]
)
def test_a_test_event_that_is_not_accepted_is_an_error_with_a_hint(status: int | None, hint: str) -> None:
    webhooks = FakeWebhooks()
    webhooks.result = SimpleNamespace(success=False, response_status=status, response_body="no", error_message=None)
    with pytest.raises(FargateError, match=hint):
        send_test_event(webhooks, "id-0")


def test_without_a_secret_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FARGATE_WEBHOOK_SECRET", raising=False)
    done = CliRunner().invoke(main, ["webhook", "register", "--url", "https://x/events"])

    assert done.exit_code == 1
    assert "FARGATE_WEBHOOK_SECRET is not set" in done.output


@pytest.fixture
def listener(worker: Worker) -> Iterator[str]:
    """Yields the events URL of a service with the secret `s3cret`."""
    server = waitress.create_server(create_app(worker, ("s3cret",)), host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    yield f"http://127.0.0.1:{server.effective_port}/events"
    server.close()


@pytest.mark.exhaustive
def test_the_command_registers_the_service_on_a_real_server(
    listener: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(secret: str, url: str = listener) -> Result:
        monkeypatch.setenv("FARGATE_WEBHOOK_SECRET", secret)
        return CliRunner().invoke(main, ["webhook", "register", "--url", url])

    with telling_server(tmp_path) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        first, again, rotated = run("s3cret"), run("s3cret"), run("other")
        refused = run("s3cret", "ftp://127.0.0.1/events")
        webhooks = list(MlflowClient(uri).list_webhooks())

    assert "is made" in first.output and "took MLflow's test event" in first.output, first.output
    assert "is up to date" in again.output and "took MLflow's test event" in again.output, again.output
    assert rotated.exit_code == 1 and "FARGATE_WEBHOOK_SECRET" in rotated.output, rotated.output
    assert refused.exit_code == 1 and "MLFLOW_WEBHOOK_ALLOWED_SCHEMES" in refused.output, refused.output
    assert len(webhooks) == 1 and {str(event) for event in webhooks[0].events} == set(EVENTS)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "mlflow-fargate-webhook.service"
    command = Path(sys.executable).with_name("mlflow-fargate")
    unit.write_text(UNIT.read_text().replace("/opt/mlflow-fargate/bin/mlflow-fargate", str(command)))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False, env={**os.environ}
    )

    assert (done.returncode, re.findall(rf"{unit.name}.*", done.stderr)) == (0, [])

"""Tests the text and the receivers of notifications, and that nothing waits for them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import stamina

from mlflow_fargate.errors import RolloutFailed
from mlflow_fargate.webhook.control_loop.actor import Outcome
from mlflow_fargate.webhook.control_loop.worker import Timing, Worker
from mlflow_fargate.webhook.notify import Notifier, describe, slack_channel
from support.webhook_fakes import FakeDeployments, FakeRegistry

WaitUntil = Callable[[Callable[[], bool]], None]


def outcome(kind: str = "update", result: str = "success", **more: Any) -> Outcome:
    return Outcome(**{  # type: ignore[arg-type]
        "key": "api", "kind": kind, "model_name": "churn", "version": "3", "result": result,
        "reason": "" if result == "success" else "RolloutFailed: exit code 1",
        "began": 1.0, "duration_seconds": 42.0, **more,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("told", "subject", "text"),
    [
        (outcome(), "api: update succeeded", "api was updated to version 3 of model 'churn' in 42 s."),
        (outcome("create"), "api: create succeeded", "api was created with version 3 of model 'churn' in 42 s."),
        (
            outcome("scale_to_zero", version=None),
            "api: scale_to_zero succeeded",
            "api (model 'churn') was scaled to zero in 42 s.",
        ),
        (outcome("delete", version=None), "api: delete succeeded", "api (model 'churn') was deleted in 42 s."),
        (
            outcome(result="rollback"),
            "api: rollback",
            "api: update (version 3 of model 'churn') failed after 42 s; ECS rolled back to the previous version.\n"
            "RolloutFailed: exit code 1",
        ),
        (
            outcome(result="failure"),
            "api: failure",
            "api: update (version 3 of model 'churn') failed after 42 s; it will be retried later.\n"
            "RolloutFailed: exit code 1",
        ),
    ],
)
def test_a_notification_is_a_sentence(told: Outcome, subject: str, text: str) -> None:
    assert describe(told) == (subject, text)


def test_a_very_long_reason_is_truncated() -> None:
    assert len(describe(outcome(result="failure", reason="x" * 100_000))[1]) == 2000


class Receiver:
    """An incoming webhook that records requests; returns each of `statuses`, then repeats the last one."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.statuses = [200]
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                status = receiver.statuses[0] if len(receiver.statuses) == 1 else receiver.statuses.pop(0)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/s3cret-path"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    with stamina.set_testing(True, attempts=3):
        yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


def send_all(notifier: Notifier, *outcomes: Outcome) -> None:
    notifier.start()
    for one in outcomes:
        notifier.tell(one)
    notifier.stop(20)


def test_a_rollout_is_sent_to_slack_and_mentions_no_one(receiver: Receiver) -> None:
    send_all(Notifier({"slack": slack_channel(receiver.url)}), outcome(model_name="<!channel> & co"))

    assert receiver.bodies == [{"text": "api was updated to version 3 of model '&lt;!channel&gt; &amp; co' in 42 s."}]


def test_a_server_error_is_retried_and_a_rejection_is_not(receiver: Receiver) -> None:
    receiver.statuses = [503, 200]
    send_all(Notifier({"slack": slack_channel(receiver.url)}), outcome())
    assert len(receiver.bodies) == 2
    receiver.statuses = [403]
    send_all(Notifier({"slack": slack_channel(receiver.url)}), outcome())
    assert len(receiver.bodies) == 3


@pytest.mark.parametrize("status", [302, 403, 500])
def test_the_address_is_never_logged_and_redirects_are_not_followed(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    receiver.statuses = [status]
    told: list[str] = []
    notifier = Notifier({"slack": slack_channel(receiver.url), "other": lambda subject, text: told.append(subject)})
    with caplog.at_level("DEBUG", "mlflow_fargate"):
        send_all(notifier, outcome(), outcome())

    assert "cannot notify slack" in caplog.text
    assert "s3cret-path" not in caplog.text
    assert told == ["api: update succeeded"] * 2


def test_the_worker_continues_while_the_receiver_hangs(
    deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil, caplog: pytest.LogCaptureFixture
) -> None:
    hanging = threading.Event()
    notifier = Notifier({"slack": lambda subject, text: hanging.wait(30) and None})
    notifier.start()
    worker = Worker(
        connect=lambda: deployments,
        registry=registry,
        listeners=[notifier.tell],
        timing=Timing(poll_seconds=3600, rest_seconds=0.02),
    )
    deployments.deploy("api", "churn", "0")
    registry.promote("churn", "0")
    worker.start()
    for version in map(str, range(1, 4)):
        registry.promote("churn", version)
        worker.wake()
        wait_until(lambda version=version: deployments.version("api") == version)  # type: ignore[misc]
    began = time.monotonic()
    for _ in range(200):
        notifier.tell(outcome())

    assert time.monotonic() - began < 60
    assert "notification dropped: the queue is full" in caplog.text
    hanging.set()
    worker.stop(5)
    notifier.stop(5)


def test_success_and_rollback_are_reported(
    deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    told: list[Outcome] = []
    worker = Worker(
        connect=lambda: deployments,
        registry=registry,
        listeners=[told.append],
        timing=Timing(poll_seconds=3600, rest_seconds=0.02),
    )
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "2")
    worker.start()
    wait_until(lambda: len(told) == 1)

    def crash(name: str) -> None:
        raise RolloutFailed("exit code 1")

    deployments.on_update = crash
    registry.promote("churn", "3")
    worker.wake()
    wait_until(lambda: len(told) == 2)
    worker.stop(5)

    assert [(one.result, one.version) for one in told] == [("success", "2"), ("rollback", "3")]

"""The pictures in docs/pictures: taken by this module; a test fails when the page has changed since.

python tests/test_pictures.py        takes them again with Chromium (make pictures)
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import Client

from mlflow_fargate.bento import template_folder
from mlflow_fargate.local.engine.snapshot import PastRollout, RolloutSnapshot, ServiceSnapshot, TaskSnapshot
from mlflow_fargate.local.page import PageApp
from mlflow_fargate.local.wsgi_server import WsgiServer
from mlflow_fargate.webhook.control_loop.actor import Outcome
from mlflow_fargate.webhook.control_loop.reconcile import Action, Deployed
from mlflow_fargate.webhook.control_loop.worker import Seen, Worker
from mlflow_fargate.webhook.http.access import Access
from mlflow_fargate.webhook.http.metrics import Metrics
from mlflow_fargate.webhook.http.views import PageLinks, make_guarded_views
from support.webhook_fakes import FakeDeployments, FakeRegistry

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
DIGESTS = PICTURES / "digests.json"
NOW = 1_795_560_000.0
ADDRESSES = {
    "mlflow_tracking_uri": "http://127.0.0.1:5000",
    "load_balancer_url": "http://127.0.0.1:8000",
    "aws_endpoint_url": "http://127.0.0.1:4566",
    "registry": "127.0.0.1:5001",
}


def task(task_id: str, revision: str, age: float, **changes: Any) -> TaskSnapshot:
    known = {"status": "RUNNING", "health": "healthy", "pid": 4711, "port": 40001, "stopped_reason": None}
    return TaskSnapshot(
        id=task_id, task_definition=revision, ip="172.31.0.10", started_at=NOW - age, **{**known, **changes}
    )


def services() -> tuple[ServiceSnapshot, ...]:
    """Returns a steady service, one that is rolling out a new version, and one whose new version failed."""
    stopped = {"status": "STOPPED", "health": "-", "pid": None, "port": None}
    return (
        ServiceSnapshot(
            "churn", "mlflow-fargate-default", "ACTIVE", 1, 1,
            (RolloutSnapshot("1", "churn:2", "PRIMARY", "COMPLETED", "ECS deployment ecs-svc/8812 completed.", 0),),
            (
                task("0c1d2e3f", "churn:2", 90),
                task("77aa12cd", "churn:1", 9000, stopped_reason="Scaling activity by ecs-svc/8812", **stopped),
            ),
            (
                (NOW - 20, "(service churn) has reached a steady state."),
                (NOW - 21, "(service churn) (deployment ecs-svc/8812) completed."),
            ),
            (
                PastRollout("churn:2", "SUCCESSFUL", "", NOW - 95, NOW - 20),
                PastRollout("churn:1", "SUCCESSFUL", "", NOW - 9050, NOW - 8990),
            ),
        ),
        ServiceSnapshot(
            "digits", "mlflow-fargate-default", "ACTIVE", 2, 3,
            (
                RolloutSnapshot(
                    "2", "digits:5", "PRIMARY", "IN_PROGRESS", "ECS deployment ecs-svc/9920 in progress.", 0
                ),
                RolloutSnapshot("1", "digits:4", "ACTIVE", "COMPLETED", "ECS deployment ecs-svc/7013 completed.", 0),
            ),
            (
                task("d1f0aa31", "digits:5", 6, health="initial", pid=5120, port=40007),
                task("88b1c0de", "digits:4", 4000, pid=4990, port=40005),
                task("1f00beef", "digits:4", 4000, pid=4991, port=40006),
            ),
            ((NOW - 6, "(service digits) has started 1 tasks: (task d1f0aa31)."),),
            (
                PastRollout("digits:5", "IN_PROGRESS", "", NOW - 9, None),
                PastRollout("digits:4", "SUCCESSFUL", "", NOW - 4010, NOW - 3970),
            ),
        ),
        ServiceSnapshot(
            "fraud", "mlflow-fargate-default", "ACTIVE", 1, 1,
            (RolloutSnapshot("3", "fraud:2", "PRIMARY", "COMPLETED", "", 0),),
            (
                task("ab12cd34", "fraud:2", 90_000, pid=4801, port=40002),
                task("e0e0e0e0", "fraud:3", 60, stopped_reason="Essential container in task exited", **stopped),
            ),
            (),
            (
                PastRollout("fraud:3", "ROLLBACK_SUCCESSFUL", "Circuit breaker: tasks failed to start", NOW - 80, NOW),
                PastRollout("fraud:2", "SUCCESSFUL", "", NOW - 90_050, NOW - 90_000),
            ),
        ),
    )  # fmt: skip


VERSIONS = {"churn:2": "4", "churn:1": "3", "digits:5": "12", "digits:4": "11", "fraud:3": "8", "fraud:2": "7"}


def tags_of(revision: str) -> dict[str, str]:
    facts = {
        "model": revision.split(":", maxsplit=1)[0],
        "model-version": VERSIONS[revision],
        "run-id": "5f1c0de2a94b4d7c",
    }
    return {f"mlflow-fargate:{key}": value for key, value in facts.items()}


def app() -> PageApp:
    return PageApp(services, lambda: ADDRESSES, lambda: None, clock=lambda: NOW, tags=tags_of)


def webhook() -> Any:
    """Returns the webhook service's page: up to date, rolling out, blocked, on hold, pinned."""
    worker = Worker(connect=FakeDeployments, registry=FakeRegistry())
    worker._seen, worker._looked_at, worker.next_look_at = seen(), NOW - 4, NOW + 26
    worker._busy.add("digits")
    worker._outcomes["fraud"] = Outcome(
        "fraud", "update", "fraud", "8", "rollback", "ValueError: could not convert string to float: 'n/a'",
        began=NOW - 900, duration_seconds=80.0,
    )  # fmt: skip
    links = PageLinks("fargate:/us-east-2", "https://mlflow.example.com")
    served = Flask(__name__, static_folder=None)
    served.register_blueprint(make_guarded_views(worker, Access(is_public=True), links, Metrics(), lambda: NOW))
    return served


def seen() -> dict[str, Seen]:
    def one(name: str, action: Action, version: str, **more: Any) -> Seen:
        follow = more.pop("follow", "Production")
        url = f"https://{name}.example.com"
        updated = "2026-11-24T20:00:00+00:00"
        return Seen(Deployed(name, follow, name, version, "COMPLETED", url=url, updated_at=updated), action, **more)

    found = (
        one("churn", Action("nothing", "version 4 is deployed", "4"), "4"),
        one("digits", Action("update", "version 12 is in Production", "12"), "11"),
        one("fraud", Action("blocked", "version 8 failed", "8", "it failed"), "7"),
        one("byhand", Action("nothing", "pinned to a fixed version"), "2", follow="pinned"),
    )
    return {item.deployed.key: item for item in found}


def model() -> Any:
    """Returns the page of a model, as a WSGI application."""
    sys.path.append(str(template_folder()))
    page = importlib.import_module("fargate_service.http.model_page")
    settings = importlib.import_module("fargate_service.settings")
    run_id = "5f1c0de2a94b4d7c"
    described = settings.ServiceDescription("pyfunc", "sklearn", None, "models:/churn/4", "churn", "4", run_id)
    columns = '[{"name": "tenure", "type": "long"}, {"name": "plan", "type": "string"}]'
    metadata = {"signature": {"inputs": columns, "outputs": '[{"type": "long"}]'}}
    example = {"dataframe_records": [{"tenure": 12, "plan": "basic"}]}
    shown = page.make_model_page(described, needs_key=True, prefix="/churn", metadata=metadata, example=example)

    def served(_: Any, start: Any) -> list[bytes]:
        start("200 OK", [(name.decode(), value.decode()) for name, value in shown.raw_headers])
        return [shown.body]

    return served


# The name of each picture, with its size and the page it shows.
SIZES = {
    "local-stack.png": ("1100,1330", app),
    "local-stack-narrow.png": ("420,900", app),
    "webhook.png": ("1100,640", webhook),
    "model.png": ("1100,900", model),
}


def digest(page: Any) -> str:
    """Returns the digest of the current page, without what differs in each response."""
    text = Client(page()).get("/", base_url="http://127.0.0.1").text
    return hashlib.sha256(re.sub(r'nonce="[^"]+"', "", text).encode()).hexdigest()


def digests() -> dict[str, str]:
    return {name: digest(page) for name, (_, page) in SIZES.items()}


def test_the_pictures_show_the_current_page() -> None:
    assert json.loads(DIGESTS.read_text()) == digests(), "make pictures"


@pytest.mark.exhaustive
@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium: make tools")
def test_chromium_renders_the_whole_page(tmp_path: Path) -> None:
    take(tmp_path)

    for name, (size, _) in SIZES.items():
        width, height = map(int, size.split(","))
        content = (tmp_path / name).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert (int.from_bytes(content[16:20]), int.from_bytes(content[20:24])) == (width, height)
        assert len(content) > 20_000, "an empty page"


def take(folder: Path) -> None:
    """Writes every picture, and the digest of the page it shows."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (size, page) in SIZES.items():
        saved = frozen_page(page)
        with WsgiServer(saved) as server:
            command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            command += [f"--window-size={size}", f"--screenshot={folder / name}", f"{server.url}/"]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
    (folder / DIGESTS.name).write_text(json.dumps(digests(), indent=2) + "\n")


def frozen_page(page: Any) -> Any:
    """Returns an application that answers with the page as it was: its links need no server."""
    answer = Client(page()).get("/", base_url="http://127.0.0.1")
    return lambda _, start: (start("200 OK", [("Content-Type", answer.headers["Content-Type"])]), [answer.data])[1]


if __name__ == "__main__":
    take(PICTURES)
    sys.stdout.write(f"taken: {', '.join(SIZES)}\n")

"""The pictures in docs/pictures: taken by this module; a test fails when the page has changed since.

python tests/test_pictures.py        takes them again with Chromium (make pictures)
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from mlflow_fargate.local.engine.snapshot import PastRollout, RolloutSnapshot, ServiceSnapshot, TaskSnapshot
from mlflow_fargate.local.page import PageApp
from mlflow_fargate.local.wsgi_server import WsgiServer

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
DIGESTS = PICTURES / "digests.json"
NOW = 1_795_560_000.0
SIZES = {"local-stack.png": "1100,1330", "local-stack-narrow.png": "420,900"}
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


def digest() -> str:
    """Returns the digest of the current page, without what differs in each response."""
    text = Client(app()).get("/", base_url="http://127.0.0.1").text
    return hashlib.sha256(re.sub(r'nonce="[^"]+"', "", text).encode()).hexdigest()


def test_the_pictures_show_the_current_page() -> None:
    assert json.loads(DIGESTS.read_text()) == dict.fromkeys(SIZES, digest()), "make pictures"


@pytest.mark.exhaustive
@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium: make tools")
def test_chromium_renders_the_whole_page(tmp_path: Path) -> None:
    take(tmp_path)

    for name, size in SIZES.items():
        width, height = map(int, size.split(","))
        content = (tmp_path / name).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert (int.from_bytes(content[16:20]), int.from_bytes(content[20:24])) == (width, height)
        assert len(content) > 20_000, "an empty page"


def take(folder: Path) -> None:
    """Writes every picture, and the digest of the page it shows."""
    folder.mkdir(parents=True, exist_ok=True)
    with WsgiServer(app()) as server:
        for name, size in SIZES.items():
            command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            command += [f"--window-size={size}", f"--screenshot={folder / name}", f"{server.url}/"]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
    (folder / DIGESTS.name).write_text(json.dumps(dict.fromkeys(SIZES, digest()), indent=2) + "\n")


if __name__ == "__main__":
    take(PICTURES)
    sys.stdout.write(f"taken: {', '.join(SIZES)}\n")

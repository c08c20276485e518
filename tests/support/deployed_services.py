"""Examples trained and deployed to the local stack, for the tests that query them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from mlflow.deployments import get_deploy_client

ROOT = Path(__file__).parents[2]


@contextmanager
def deployed(name: str, model_uri: str, config: dict[str, Any]) -> Iterator[str]:
    """Yields the URL of a deployment, and deletes the deployment at the end."""
    client = get_deploy_client("fargate:/local")
    usual = {"auth": "none", "timeout_seconds": 600, "deregistration_delay_seconds": 1, "smoke_test": False}
    try:
        deployment = client.create_deployment(name, model_uri, config={**usual, **config})
        yield deployment["url"]
    finally:
        client.delete_deployment(name)


def train(example: str, name: str, epochs: int) -> str:
    """Returns the URI that the example's script registers; runs it in a separate process: TensorFlow stays loaded."""
    command = [sys.executable, "-m", f"examples.{example}.train", name, str(epochs)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    return f"models:/{name}/1"


def log_model(flavor: str) -> dict[str, Any]:
    """Logs a model with tests/support/flavor_models.py and returns the script's output."""
    command = [sys.executable, "-m", "tests.support.flavor_models", flavor]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def service_of(example: str, file: str = "service.py") -> str:
    return str(ROOT / "examples" / example / "service" / file)


def post(url: str, body: object) -> requests.Response:
    return requests.post(url, json=body, timeout=60)

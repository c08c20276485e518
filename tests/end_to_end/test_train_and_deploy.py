"""The example that trains and deploys in one script, run as its first line says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow.deployments import get_deploy_client

pytestmark = [pytest.mark.end_to_end, pytest.mark.exhaustive, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


def test_the_example_trains_and_deploys_within_forty_lines(local_stack: dict[str, str]) -> None:
    environment = {**os.environ, "MLFLOW_DEPLOYMENTS_TARGET": "fargate:/local"}
    command = [sys.executable, "-m", "examples.train_and_deploy"]
    client = get_deploy_client("fargate:/local")
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        found = client.get_deployment("iris")
    finally:
        client.delete_deployment("iris")
        version = mlflow.MlflowClient().get_latest_versions("iris")[0]
        mlflow.MlflowClient().delete_registered_model("iris")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [found["url"], "{'predictions': [0, 0]}"]
    assert (found["model_name"], found["model_version"]) == ("iris", "1")
    assert version.current_stage == "Production"
    assert len((ROOT / "examples" / "train_and_deploy.py").read_text().splitlines()) < 40

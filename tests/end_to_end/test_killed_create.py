"""kill -9 of `mlflow deployments create` at any moment; running the same command again finishes the deployment."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from mlflow.deployments import get_deploy_client

pytestmark = [pytest.mark.end_to_end, pytest.mark.exhaustive, pytest.mark.timeout(1500)]

MLFLOW = Path(sys.executable).parent / "mlflow"
TARGET = "fargate:/local/killed"
NAME = "doubler"
KILLS = 10


@pytest.fixture
def gone_after(local_stack: dict[str, str]) -> Iterator[None]:
    yield
    delete_everything()


def create(model_uri: str) -> subprocess.Popen[str]:
    options = ["-C", "auth=none", "-C", "deregistration_delay_seconds=1", "-C", "smoke_test=false"]
    command = [MLFLOW, "deployments", "create", "-t", TARGET, "--name", NAME, "-m", model_uri, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=300)
    return said


def is_finished(said: str) -> bool:
    """Returns whether it finished; if it was killed after its last write, create reports an existing deployment."""
    return f"deployment {NAME} is created" in said or "There is already a deployment" in said


def check_it_serves() -> str:
    client = get_deploy_client(TARGET)
    status = client.get_deployment(NAME)
    assert status["state"] == "COMPLETED"
    assert status["running_count"] == 1
    answer = client.predict(NAME, pd.DataFrame({"x": [21.0]}))
    assert answer["predictions"] == [{"x": 42.0}]
    return str(status["task_definition"])


def kill_after(seconds: float, model_uri: str) -> None:
    victim = create(model_uri)
    time.sleep(seconds)
    victim.kill()
    victim.communicate()


def delete_everything() -> None:
    client = get_deploy_client(TARGET)
    client.delete_deployment(NAME)
    client.delete_endpoint("killed")


def test_a_create_that_was_killed_is_finished_by_the_same_command(doubler: str, gone_after: None) -> None:
    for seconds in (8, 14, 20):  # while packages are resolved, installed and compressed for the first time
        kill_after(seconds, doubler)
    said = finish(create(doubler))
    assert is_finished(said), said
    check_it_serves()
    delete_everything()
    began = time.monotonic()
    finish(create(doubler))
    whole_seconds = time.monotonic() - began
    generator = random.Random(2026)
    moments = [whole_seconds * (number + generator.random()) / KILLS for number in range(KILLS)]
    for moment in generator.sample(moments, KILLS):
        delete_everything()
        kill_after(moment, doubler)

        said = finish(create(doubler))

        assert is_finished(said), (moment, said)
        check_it_serves()

"""A whole stack whose tasks are containers, started by the command, with what a deployment goes through."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import mlflow
import pytest
from mlflow.deployments import get_deploy_client

from mlflow_fargate.errors import RolloutFailed
from mlflow_fargate.local.container.container_engine import ContainerEngine
from mlflow_fargate.local.container.engine_runner import LABEL, label_of
from mlflow_fargate.local.registry.store import RegistryStore
from support.base_image import seed_shared_base_image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

BIN = Path(sys.executable).parent
TARGET = "fargate:/local"
QUICK = {"deregistration_delay_seconds": "1", "smoke_test": "false"}
ROWS = {"dataframe_split": {"columns": ["x"], "data": [[21.0]]}}
HOG = """
import mlflow

class Hog(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.ballast = bytearray(b"x") * (2 << 30)

    def predict(self, context, model_input: list[str]) -> list[str]:
        return model_input

mlflow.models.set_model(Hog())
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def stack(container_engine: ContainerEngine, cache: Path) -> Iterator[dict[str, str]]:
    """Starts a stack with containers and sets its variables in this process's environment; returns its status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_FARGATE_CACHE", str(cache))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        try:
            seed_shared_base_image(RegistryStore(cache / "local" / "registry"))
            run("mlflow-fargate", "local", "up", "--detach", "--engine", container_engine.name)
            for line in run("mlflow-fargate", "local", "env").splitlines():
                name, _, value = line.removeprefix("export ").partition("=")
                patch.setenv(name, value)
            mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
            yield json.loads(run("mlflow-fargate", "local", "status", "--json"))
        finally:
            run("mlflow-fargate", "local", "down")
            mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def containers(container_engine: ContainerEngine, cache: Path) -> Callable[[], list[str]]:
    """Returns a function that lists the stack's containers, running or not."""
    label = f"label={LABEL}={label_of(cache / 'local' / 'tasks')}"
    return lambda: container_engine.call("ps", "--all", "--quiet", "--filter", label).split()


@pytest.fixture(scope="module")
def churn(stack: dict[str, str]) -> str:
    """Returns the name of a registered model with two versions."""
    for _ in range(2):
        log_model(Path(__file__).parents[1] / "support" / "doubler.py", "churn")
    return "churn"


def run(*command: str) -> str:
    done = subprocess.run([BIN / command[0], *command[1:]], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def log_model(code: Path, name: str) -> None:
    requirements = [f"cloudpickle=={version('cloudpickle')}", "pandas"]
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="model", python_model=str(code), pip_requirements=requirements, registered_model_name=name
        )


def test_the_stack_shows_what_runs_its_tasks(stack: dict[str, str], container_engine: ContainerEngine) -> None:
    assert stack["engine"] == container_engine.name
    assert f"tasks:           containers ({container_engine.version}" in run("mlflow-fargate", "local", "status")


def test_a_deployment_lives_in_containers(churn: str, containers: Callable[[], list[str]]) -> None:
    client = get_deploy_client(TARGET)

    client.create_deployment(churn, "models:/churn/1", config=QUICK)
    assert client.predict(churn, ROWS)["predictions"] == [{"x": 42.0}]
    assert len(containers()) == 1
    with steady_requests(churn) as outcomes:
        client.update_deployment(churn, "models:/churn/2", config={"memory": "1024", "cpu": "512"})
    assert set(outcomes) == {""}, outcomes
    assert client.get_deployment(churn)["model_version"] == "2"
    assert "models:/churn/2 loaded" in run("mlflow-fargate", "logs", "-t", TARGET, "--name", churn)
    client.delete_deployment(churn)

    until = time.monotonic() + 60
    while containers():
        assert time.monotonic() < until, "a container was left behind"
        time.sleep(0.5)


@pytest.mark.exhaustive
def test_a_model_that_needs_more_memory_than_its_task_is_reported(stack: dict[str, str], tmp_path: Path) -> None:
    code = tmp_path / "hog.py"
    code.write_text(HOG)
    log_model(code, "hog")

    with pytest.raises(RolloutFailed, match="OutOfMemoryError: Container killed due to memory usage") as raised:
        get_deploy_client(TARGET).create_deployment(
            "hog", "models:/hog/1", config={**QUICK, "memory": "512", "cpu": "256"}
        )

    assert raised.value.hint is not None
    assert "memory=" in raised.value.hint


@pytest.mark.exhaustive
def test_no_request_of_16_clients_fails_while_containers_are_replaced(churn: str) -> None:
    client = get_deploy_client(TARGET)
    client.create_deployment("busy", "models:/churn/1", config={**QUICK, "desired_count": "2"})

    with steady_requests("busy", clients=16) as outcomes:
        client.update_deployment("busy", "models:/churn/2")

    client.delete_deployment("busy")
    assert outcomes[""] > 100
    assert set(outcomes) == {""}, outcomes


@pytest.mark.exhaustive
def test_a_killed_stack_leaves_no_container_after_down(
    churn: str, stack: dict[str, str], containers: Callable[[], list[str]]
) -> None:
    get_deploy_client(TARGET).create_deployment("left", "models:/churn/1", config=QUICK)
    os.kill(int(stack["pid"]), signal.SIGKILL)
    assert containers()

    run("mlflow-fargate", "local", "down")

    assert containers() == []


@contextlib.contextmanager
def steady_requests(name: str, clients: int = 1) -> Iterator[Counter[str]]:
    """Sends requests while the block runs, from each client one after the other; yields counts of errors ('': none)."""
    client, stopping = get_deploy_client(TARGET), threading.Event()
    outcomes: Counter[str] = Counter()
    counting = threading.Lock()

    def send() -> None:
        while not stopping.wait(0.05):
            error = ""
            try:
                client.predict(name, ROWS)
            except Exception as raised:
                error = repr(raised)
            with counting:
                outcomes[error] += 1

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        stopping.set()
        for thread in threads:
            thread.join()

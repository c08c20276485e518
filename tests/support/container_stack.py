"""A local stack whose tasks are containers, started by the command, and its client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pytest

from mlflow_fargate.local.container.container_engine import ContainerEngine
from mlflow_fargate.local.container.engine_leftovers import LABEL, label_of
from mlflow_fargate.local.registry.store import RegistryStore
from support.base_image import seed_shared_base_image

BIN = Path(sys.executable).parent
TARGET = "fargate:/local"
QUICK = {"deregistration_delay_seconds": "1", "smoke_test": "false"}
ROWS = {"dataframe_split": {"columns": ["x"], "data": [[21.0]]}}
DOUBLER = Path(__file__).with_name("doubler.py")
REQUIREMENTS = (f"cloudpickle=={version('cloudpickle')}", "pandas")


@pytest.fixture(scope="module")
def stack_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the cache directory of the module's stack."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def container_stack(container_engine: ContainerEngine, stack_cache: Path) -> Iterator[dict[str, str]]:
    """Starts a stack with containers and sets its variables in this process's environment; returns its status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_FARGATE_CACHE", str(stack_cache))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        try:
            seed_shared_base_image(RegistryStore(stack_cache / "local" / "registry"))
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
def list_containers(container_engine: ContainerEngine, stack_cache: Path) -> Callable[[], list[str]]:
    """Returns a function that lists the stack's containers, running or not."""
    label = f"label={LABEL}={label_of(stack_cache / 'local' / 'tasks')}"
    return lambda: container_engine.call("ps", "--all", "--quiet", "--filter", label).split()


def run(*command: str) -> str:
    done = subprocess.run([BIN / command[0], *command[1:]], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def log_model(code: Path, name: str, requirements: tuple[str, ...] = REQUIREMENTS, **more: Any) -> None:
    """Registers the model that the file defines."""
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(code),
            pip_requirements=list(requirements),
            registered_model_name=name,
            **more,
        )


def wait_until_left(list_containers: Callable[[], list[str]], count: int) -> None:
    """Waits until the stack has only this many containers."""
    until = time.monotonic() + 60
    while len(list_containers()) > count:
        assert time.monotonic() < until, "a container was left behind"
        time.sleep(0.5)

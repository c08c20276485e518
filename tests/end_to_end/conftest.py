"""A separate local stack for the end-to-end tests: started by the command, with its own cache, and stopped."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
import psutil
import pytest
from mlflow.models.model import ModelInfo

from mlflow_fargate.local.registry.store import RegistryStore
from support.base_image import seed_shared_base_image

BIN = Path(sys.executable).parent
ENGINE = os.environ.get("TEST_ENGINE", "process")  # what runs the tasks: see `local up --engine`


@pytest.fixture(scope="package")
def local_stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Returns the variables of `mlflow-fargate local env`; also sets them in this process's environment."""
    if ENGINE != "process":
        request.getfixturevalue("container_engine")  # skips where it does not work
    cache = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_FARGATE_CACHE", cache)
        patch.setenv("DEMO_EXIT", "1")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        try:
            seed_shared_base_image(RegistryStore(Path(cache) / "local" / "registry"))
            subprocess.run([BIN / "mlflow-fargate", "local", "up", "--detach", "--engine", ENGINE], check=True)
            lines = subprocess.check_output([BIN / "mlflow-fargate", "local", "env"], text=True).splitlines()
            variables = dict(line.removeprefix("export ").split("=", 1) for line in lines)
            for name, value in variables.items():
                patch.setenv(name, value)
            mlflow.set_tracking_uri(variables["MLFLOW_TRACKING_URI"])
            yield variables
        finally:
            subprocess.run([BIN / "mlflow-fargate", "local", "down"], check=True)
            mlflow.set_tracking_uri(None)
    assert processes_with(cache) == []


def processes_with(cache: str) -> list[int]:
    """Returns the processes of a stack with this cache directory: its command, MLflow's server, tasks."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            names_it = any(cache in text for text in (*process.cmdline(), *process.environ().values()))
            if names_it and process.pid != os.getpid():
                found.append(process.pid)
    return found


@pytest.fixture(scope="package")
def doubler(local_stack: dict[str, str]) -> str:
    """Returns the URI of a logged model that starts quickly."""
    return log_doubler().model_uri


def log_doubler(registered_name: str | None = None) -> ModelInfo:
    """Logs the model in support/doubler.py, and registers it if a name is given."""
    mlflow.set_experiment("doubler")
    requirements = [f"cloudpickle=={version('cloudpickle')}", "pandas"]
    with mlflow.start_run():
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).parents[1] / "support" / "doubler.py"),
            input_example=pd.DataFrame({"x": [1.0]}),
            pip_requirements=requirements,
            registered_model_name=registered_name,
        )


@pytest.fixture
def churn(local_stack: dict[str, str]) -> Iterator[str]:
    """Returns a registered model with two versions, the first in Production."""
    first, _ = log_doubler("churn"), log_doubler("churn")
    client = mlflow.MlflowClient()
    client.transition_model_version_stage("churn", str(first.registered_model_version), "Production")
    yield "churn"
    client.delete_registered_model("churn")

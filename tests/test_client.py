"""The plugin as MLflow sees it, by the rules of its contract."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from mlflow.deployments import get_deploy_client
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

from mlflow_fargate import FargateDeploymentClient, errors, target_help
from mlflow_fargate.errors import (
    AwsError,
    DeploymentExists,
    FargateError,
    InvalidOption,
    LocalStackError,
    PredictionFailed,
)
from mlflow_fargate.mlflow_errors import raises_mlflow_errors


def test_the_help_lists_every_option() -> None:
    assert "deregistration_delay_seconds" in target_help()


def test_delete_refuses_unknown_options() -> None:
    with pytest.raises(InvalidOption, match="'force'"):
        FargateDeploymentClient("fargate:/eu-west-1").delete_deployment("churn", config={"force": "true"})


class FakeDeployer:
    """Records the timeout of predictions."""

    def __init__(self) -> None:
        self.timeouts: list[float] = []

    def predict(self, name: str, inputs: object, timeout_seconds: float) -> list[int]:
        self.timeouts.append(timeout_seconds)
        return [1]


def test_the_prediction_timeout_is_the_calls_or_mlflows_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deployer = FakeDeployer()
    monkeypatch.setattr(FargateDeploymentClient, "deployer", lambda *_: deployer)
    client = FargateDeploymentClient("fargate:/eu-west-1")

    assert client.predict("churn", [1]) == {"predictions": [1]}
    monkeypatch.setenv("MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT", "7")
    client.predict("churn", [1])
    client.predict("churn", [1], timeout_seconds=0.5)

    assert deployer.timeouts == [120, 7, 0.5]


@pytest.mark.parametrize("seconds", ["soon", "0", "-1"])
def test_an_invalid_timeout_is_refused_before_aws_is_called(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv("MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT", seconds)

    with pytest.raises(InvalidOption, match=seconds):
        FargateDeploymentClient("fargate:/eu-west-1").predict("churn", [1])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "Endpoint 'default' has no deployments.\n  hint: create one with: mlflow deployments create"),
        (["a", "b"], "Endpoint 'default' has 2 deployments (a, b).\n  hint: choose one: "),
    ],
)
def test_a_prediction_without_a_name_needs_an_endpoint_with_one_deployment(
    monkeypatch: pytest.MonkeyPatch, names: list[str], said: str
) -> None:
    listed = [SimpleNamespace(name=name) for name in names]
    deployer = SimpleNamespace(target=SimpleNamespace(endpoint="default"), list=lambda: listed, predict=None)
    monkeypatch.setattr(FargateDeploymentClient, "deployer", lambda *_: deployer)

    with pytest.raises(InvalidOption) as caught:
        FargateDeploymentClient("fargate:/eu-west-1").predict(inputs=[1])

    assert caught.value.format_message().startswith(said)


def test_an_error_is_clean_on_the_command_line_and_mlflows_for_its_callers() -> None:
    with pytest.raises(MlflowException) as caught:
        fail_with(DeploymentExists("There is already a deployment 'churn'.", hint="update it"))

    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert isinstance(error, DeploymentExists)
        assert isinstance(error, click.ClickException)
        assert isinstance(error, MlflowException)
        assert error.error_code == "RESOURCE_ALREADY_EXISTS"
        assert error.get_http_status_code() == 400
        assert error.format_message() == str(error) == "There is already a deployment 'churn'.\n  hint: update it"
        assert error.hint == "update it"


def test_an_error_of_aws_keeps_its_operation_and_code_for_mlflows_callers() -> None:
    with pytest.raises(MlflowException) as caught:
        fail_with(AwsError("no", operation="ecs:CreateService", code="AccessDeniedException"))

    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.operation, error.code, error.error_code) == (
        "ecs:CreateService",
        "AccessDeniedException",
        "PERMISSION_DENIED",
    )


def test_an_error_in_a_stream_is_mlflows_too() -> None:
    @raises_mlflow_errors
    def stream() -> Iterator[int]:
        yield 1
        raise PredictionFailed("stopped streaming")

    seen = []
    with pytest.raises(MlflowException):
        for piece in stream():
            seen.append(piece)  # until it raises
    assert seen == [1]


@raises_mlflow_errors
def fail_with(error: Exception) -> None:
    raise error


def test_commands_for_deployments_do_not_import_mlflow() -> None:
    code = """
import sys
from click.testing import CliRunner
from mlflow_fargate.cli import main

for command in ("status", "events", "logs", "history", "scale", "list"):
    CliRunner().invoke(main, [command, "--help"])
from mlflow_fargate.deployments.deployer import make_deployer
heavy = {"mlflow", "pandas", "numpy", "bentoml"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("command", ["status", "env", "down"])
def test_commands_about_the_local_stack_import_none_of_its_parts(command: str, tmp_path: Path) -> None:
    code = f"""
import sys
from click.testing import CliRunner
from mlflow_fargate.cli import main

CliRunner().invoke(main, ["local", "{command}"])
heavy = {{"mlflow", "boto3", "moto", "flask", "aiohttp", "pydantic"}} & set(sys.modules)
assert not heavy, heavy
"""
    environment = {**os.environ, "MLFLOW_FARGATE_CACHE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_every_error_has_an_mlflow_error_code() -> None:
    classes = [item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, FargateError)]

    assert len(classes) > 10
    for error in classes:
        assert ErrorCode.Value(error.error_code)


def test_the_error_without_a_local_stack_says_how_to_start_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_FARGATE_CACHE", str(tmp_path))

    with pytest.raises(LocalStackError, match="mlflow-fargate local up"):
        get_deploy_client("fargate:/local").list_deployments()

"""What MLflow sees of the plugin, by the rules of its contract."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import click
import pytest
from mlflow.deployments import BaseDeploymentClient, get_deploy_client
from mlflow.deployments.interface import plugin_store
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

import mlflow_fargate
from mlflow_fargate import FargateDeploymentClient, errors, target_help
from mlflow_fargate.errors import DeploymentExists, FargateError, InvalidOption, LocalStackError


def test_mlflow_loads_the_module_under_the_name_fargate() -> None:
    assert plugin_store["fargate"] is mlflow_fargate


def test_the_module_holds_exactly_one_client_and_the_two_functions() -> None:
    clients = [
        member
        for _, member in inspect.getmembers(mlflow_fargate, inspect.isclass)
        if issubclass(member, BaseDeploymentClient)
    ]

    assert clients == [FargateDeploymentClient]
    assert callable(mlflow_fargate.run_local)
    assert callable(mlflow_fargate.target_help)


@pytest.mark.parametrize("uri", ["fargate", "fargate:/eu-west-1", "fargate://eu-west-1/prod", "fargate:eu-west-1"])
def test_a_client_is_made_without_asking_aws(uri: str) -> None:
    assert isinstance(get_deploy_client(uri), FargateDeploymentClient)


def test_every_verb_is_declared_with_the_parameters_that_mlflow_passes() -> None:
    for verb in ("create_deployment", "update_deployment", "delete_deployment", "get_deployment", "list_deployments"):
        assert "endpoint" in inspect.signature(getattr(FargateDeploymentClient, verb)).parameters
    assert "config" in inspect.signature(FargateDeploymentClient.delete_deployment).parameters


def test_the_help_is_a_text_with_every_option() -> None:
    assert "deregistration_delay_seconds" in target_help()


def test_delete_refuses_options_that_it_does_not_have() -> None:
    with pytest.raises(InvalidOption, match="'force'"):
        FargateDeploymentClient("fargate:/eu-west-1").delete_deployment("churn", config={"force": "true"})


def test_predict_on_an_endpoint_alone_asks_which_deployment_is_meant() -> None:
    with pytest.raises(InvalidOption, match="name the one to ask"):
        FargateDeploymentClient("fargate:/eu-west-1").predict(inputs=[1], endpoint="default")


def test_an_error_is_clean_on_the_command_line_and_has_mlflows_code() -> None:
    error = DeploymentExists("There is already a deployment 'churn'.", hint="update it")

    assert isinstance(error, MlflowException)
    assert isinstance(error, click.ClickException)
    assert error.error_code == "RESOURCE_ALREADY_EXISTS"
    assert error.format_message() == "There is already a deployment 'churn'.\n  hint: update it"


def test_every_error_has_a_code_that_mlflow_knows() -> None:
    classes = [item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, FargateError)]

    assert len(classes) > 10
    for error in classes:
        assert ErrorCode.Name(error.mlflow_error_code)


def test_a_verb_against_a_stack_that_does_not_run_says_how_to_start_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_FARGATE_CACHE", str(tmp_path))

    with pytest.raises(LocalStackError, match="mlflow-fargate local up"):
        get_deploy_client("fargate:/local").list_deployments()


@pytest.mark.slow
def test_the_plugin_loads_neither_boto3_nor_bentoml_nor_tensorflow() -> None:
    code = (
        "import sys, mlflow.deployments; before = set(sys.modules); import mlflow_fargate; "
        "print([name for name in ('boto3', 'bentoml', 'tensorflow', 'moto', 'docker') "
        "if name in set(sys.modules) - before])"
    )

    printed = subprocess.check_output([sys.executable, "-c", code], text=True)

    assert printed.splitlines()[-1] == "[]"

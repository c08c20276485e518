"""Deploying from training code, with AWS in this process and a real tracking server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest

import mlflow_fargate
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import DeploymentNotFound, InvalidOption, ModelNotFound, RolloutTimeout
from mlflow_fargate.model.logged import model_uri_of
from support.deployer import QUICK, TARGET
from support.mlflow_server import LoggedModels, MlflowServer

pytestmark = pytest.mark.slow


def deploy(model: Any, name: str = "churn", **options: Any) -> mlflow_fargate.Deployment:
    return mlflow_fargate.deploy(model, name=name, target=TARGET, **{**QUICK, **options})


@pytest.fixture
def server(mlflow_server: MlflowServer, logged_models: LoggedModels, monkeypatch: pytest.MonkeyPatch) -> LoggedModels:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", mlflow_server.uri)
    return logged_models


def test_deploying_creates_then_updates_and_can_roll_back(
    plugged_in: Deployer, capfd: pytest.CaptureFixture[str]
) -> None:
    created = deploy("models:/churn/1", **{"environment.VERSION": "1"})
    updated = deploy("models:/churn/2", **{"environment.VERSION": "2"})
    told = capfd.readouterr()

    assert created.predict([[1]]) == {"predictions": {"inputs": [[1]]}}
    assert (updated.version, created.url) == ("2", updated.url)
    assert any("version 2 starts" in line for line in updated.logs())
    assert updated.rollback().version == "1"
    assert (told.out, "churn is at" in told.err) == ("", True)


def test_deploying_inside_an_active_run_does_not_change_the_run(plugged_in: Deployer, server: LoggedModels) -> None:
    with mlflow.start_run() as run:
        deployment = deploy("models:/churn/1", "in-a-run")
        mlflow.log_param("deployed", deployment.name)
        active = mlflow.active_run()

    assert active is not None and active.info.run_id == run.info.run_id
    assert mlflow.MlflowClient().get_run(run.info.run_id).data.params == {"deployed": "in-a-run"}
    assert deployment.predict([[1]]) == {"predictions": {"inputs": [[1]]}}


def test_without_waiting_deploy_returns_before_aws_is_called(plugged_in: Deployer) -> None:
    go_on = threading.Event()
    resolve = type(plugged_in.publisher).resolve
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(plugged_in.publisher), "resolve", lambda *what: go_on.wait(60) and resolve(*what))
        deployment = deploy("models:/churn/1", "later", wait=False)
        with pytest.raises(DeploymentNotFound):
            deployment.status  # noqa: B018  # reading it is the test
        with pytest.raises(RolloutTimeout, match="was not deployed within"):
            deployment.wait(timeout_seconds=0.01)
        go_on.set()
        deployment.wait()

    assert deployment.predict([[1]]) == {"predictions": {"inputs": [[1]]}}


def test_wait_raises_the_error_of_a_background_deployment(
    plugged_in: Deployer, capfd: pytest.CaptureFixture[str]
) -> None:
    deployment = deploy("models:/churn/1", "flavourless", wait=False, flavor="xgboost")

    with pytest.raises(ModelNotFound, match="no flavor 'xgboost'"):
        deployment.wait()
    assert "deploy flavourless failed: 'models:/churn/1' has no flavor 'xgboost'" in capfd.readouterr().err


def test_a_mistyped_option_is_reported_immediately(plugged_in: Deployer) -> None:
    with pytest.raises(InvalidOption, match="Did you mean 'cpu'"):
        deploy("models:/churn/1", wait=False, cpus=1)


def test_a_script_that_ends_immediately_still_deploys() -> None:
    code = (
        "import time; from concurrent.futures import ThreadPoolExecutor; from mlflow_fargate import training\n"
        "def work():\n"
        "    time.sleep(0.5)\n"
        "    with ThreadPoolExecutor(2) as pool: print(list(pool.map(str, [1, 2])))\n"
        "training._start('deploy churn', work)"
    )

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "['1', '2']"


def test_a_model_is_accepted_as_uri_run_id_or_model_info(server: LoggedModels) -> None:
    logged = SimpleNamespace(model_uri="models:/m-1", registered_model_version=None, model_id="m-1")
    registered = SimpleNamespace(model_uri="models:/m-1", registered_model_version=1, model_id=server.direct_model_id)

    assert model_uri_of("runs:/1/model") == "runs:/1/model"
    assert model_uri_of(logged) == "models:/m-1"
    assert model_uri_of(registered) == "models:/iris/1"
    assert model_uri_of(server.direct_run_id) == "models:/iris/2"  # the newest version registered from it


def test_a_model_that_was_registered_later_is_its_newest_version(server: LoggedModels) -> None:
    run_id, client = server.proxied_run_id, mlflow.MlflowClient()
    (logged,) = [output.model_id for output in client.get_run(run_id).outputs.model_outputs]
    info = SimpleNamespace(model_uri=f"models:/{logged}", registered_model_version=None, model_id=logged)
    name = client.get_logged_model(logged).name

    assert model_uri_of(info) == "models:/proxied/1"
    assert model_uri_of(f"runs:/{run_id}/{name}") == "models:/proxied/1"
    assert model_uri_of(f"runs:/{run_id}/other") == f"runs:/{run_id}/other"
    client.copy_model_version("models:/proxied/1", "a-copy")
    try:
        assert model_uri_of(run_id) == model_uri_of(f"runs:/{run_id}/{name}") == "models:/proxied/1"
    finally:
        client.delete_registered_model("a-copy")


def test_a_model_that_is_not_registered_has_no_version_to_promote(
    plugged_in: Deployer, capfd: pytest.CaptureFixture[str]
) -> None:
    deployment = deploy("runs:/0/model", "unregistered")

    assert deployment.version is None
    assert "runs:/0/model is not a registered version, so it cannot be promoted" in capfd.readouterr().err
    with pytest.raises(InvalidOption, match="registered_model_name='churn'"):
        mlflow_fargate.promote("churn", deployment.version)


def test_a_runs_only_model_is_its_registered_version(server: LoggedModels) -> None:
    assert model_uri_of(server.proxied_run_id) == "models:/proxied/1"


def test_the_model_of_a_run_of_an_mlflow_2_client_is_found(server: LoggedModels) -> None:
    history = [{"run_id": "r", "artifact_path": "model", "flavors": {}}]
    with mlflow.start_run() as run:
        mlflow.set_tag("mlflow.log-model.history", json.dumps(history))
    with mlflow.start_run() as with_two:
        mlflow.set_tag("mlflow.log-model.history", json.dumps([*history, {"artifact_path": "other"}]))

    assert model_uri_of(run.info.run_id) == f"runs:/{run.info.run_id}/model"
    with pytest.raises(InvalidOption, match=f"(?s)has logged 2 models.*runs:/{with_two.info.run_id}/other"):
        model_uri_of(with_two.info.run_id)


def test_a_run_without_a_model_and_a_missing_run_are_reported(server: LoggedModels) -> None:
    with mlflow.start_run() as run:
        mlflow.set_tag("mlflow.log-model.history", '[{"not": "what MLflow writes"}]')
        with pytest.raises(ModelNotFound, match="has not logged a model"):
            model_uri_of(run.info.run_id)
        mlflow.set_tag("mlflow.log-model.history", "[" * 5000)
        with pytest.raises(ModelNotFound, match="has not logged a model"):
            model_uri_of(run.info.run_id)
    with pytest.raises(ModelNotFound, match=r"Run 0{32} not found on http"):
        model_uri_of("0" * 32)
    with pytest.raises(InvalidOption, match="Expected a model, got dict"):
        model_uri_of({})


@pytest.fixture
def promoted(server: LoggedModels) -> Iterator[str]:
    """A separate registered model, because other tests read the shared ones."""
    client = mlflow.MlflowClient()
    client.copy_model_version("models:/iris/1", "promoted")
    yield "promoted"
    client.delete_registered_model("promoted")


def test_promoting_moves_a_stage_or_an_alias(promoted: str) -> None:
    mlflow_fargate.promote(promoted, 1)
    mlflow_fargate.promote(promoted, 1, "@champion")

    version = mlflow.MlflowClient().get_model_version_by_alias(promoted, "champion")
    assert (version.version, version.current_stage) == ("1", "Production")
    with pytest.raises(ModelNotFound, match="Version 99 of 'promoted' could not be moved"):
        mlflow_fargate.promote(promoted, 99)

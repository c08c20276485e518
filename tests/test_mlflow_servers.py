"""Reads the registries of older MLflow servers and the newest, and deploys from them; each has its own environment."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import boto3
import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.deployments import BaseDeploymentClient, get_deploy_client

from mlflow_fargate.aws.account import Account
from mlflow_fargate.deployments import deployer as story
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.model.uri import ModelRegistry
from mlflow_fargate.progress import Progress
from mlflow_fargate.publisher import Publisher
from mlflow_fargate.resolved_model import ResolvedModel
from mlflow_fargate.target import Target
from mlflow_fargate.webhook.control_loop.model_registry import MlflowModelRegistry, ModelState
from mlflow_fargate.webhook.control_loop.worker import Timing, Worker
from mlflow_fargate.webhook.http.app import create_app
from support.deployer import QUICK, TARGET, FakePublisher, make_deployer, use_account
from support.doubler import Doubler
from support.mlflow_server import serve_mlflow
from support.tracking_uri import use_tracking_uri
from support.webhook_events import signed_event

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.timeout(600)]

_BEFORE_3_12 = pytest.mark.skipif(sys.version_info >= (3, 12), reason="MLflow 1.30 does not run on Python 3.12")
SERVERS = [
    pytest.param("mlflow==1.30.1", marks=_BEFORE_3_12),
    "mlflow==2.10.2",
    "mlflow==2.22.*",
    "mlflow",
]


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Returns the URI of a server of that release."""
    folder = tmp_path_factory.mktemp("server")
    bin_folder = folder / "environment" / "bin"
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, bin_folder.parent], check=True)
    packages = [request.param]
    if request.param != "mlflow":
        packages += ["setuptools<80", "sqlalchemy<2.0.31"]  # of their time
    subprocess.run([uv, "pip", "install", "-q", "--python", bin_folder / "python", *packages], check=True)
    environment = {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    root = ("--default-artifact-root", str(folder))
    with serve_mlflow(folder, *root, python=str(bin_folder / "python"), **environment) as uri:
        yield uri


def test_promotions_and_absent_models_are_seen(server: str) -> None:
    client, registry = MlflowClient(server), MlflowModelRegistry(server)
    for name in ("sales", "fraud-eu", "tagged"):
        client.create_registered_model(name)
        client.create_model_version(name, "s3://bucket/model")
    client.transition_model_version_stage("sales", "1", "Production")
    client.set_registered_model_tag("tagged", "fargate.deploy", "prod")
    states = registry.look(["sales", "fraud-eu", "nobody"])

    assert {name: dict(state.stages) for name, state in states.items()} == {
        "sales": {"Production": ("1",)},
        "fraud-eu": {"None": ("1",)},
    }
    assert registry.look([], patterns=["fraud-*"]).keys() == {"fraud-eu"}
    assert registry.look([], tag="fargate.deploy").keys() == {"tagged"}
    close = registry.look_closely("sales")
    assert isinstance(close, ModelState) and close.stages == {"Production": ("1",)}
    assert registry.look_closely("nobody") is None


@dataclass
class ResolvingPublisher(FakePublisher):
    """Resolves models as the real one does; has one image for all of them."""

    real: Publisher

    def resolve(self, model_uri: str, labels: str | None) -> ResolvedModel:
        return self.real.resolve(model_uri, labels)


@pytest.fixture
def deployments(
    aws_url: str, push_image: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[BaseDeploymentClient]:
    """Returns MLflow's client of a deployer that resolves models in the registry that MLflow is set to."""
    fake, make_real = make_deployer(aws_url, push_image()), story.make_deployer

    def for_target(asked: Target, account: Account, cache: Path, progress: Progress) -> Deployer:
        real = make_real(fake.target, fake.account, tmp_path, progress)
        publisher = ResolvingPublisher(fake.publisher.image, real.publisher)  # type: ignore[attr-defined]
        return replace(real, make_publisher=lambda: publisher)  # type: ignore[arg-type]

    use_account(monkeypatch, fake)
    monkeypatch.setattr(story, "make_deployer", for_target)
    client = get_deploy_client(TARGET)
    yield client
    for deployment in client.list_deployments():
        client.delete_deployment(deployment["name"])


def test_a_stage_is_deployed_and_followed_by_polling_and_by_event(
    server: str, deployments: BaseDeploymentClient, tmp_path: Path
) -> None:
    with use_tracking_uri(server):
        promote = register(tmp_path)
        promote("1")
        deployments.create_deployment("churn", "models:/churn/Production", config=QUICK)
        assert deployments.get_deployment("churn")["model_version"] == "1"

        with following(server, deployments, poll_seconds=0.5):
            promote("2")
            wait_for(deployments, "2")

        with following(server, deployments, poll_seconds=3600) as worker:
            wait(lambda: worker.is_ready)
            promote("3")
            app = create_app(worker, ("s3cret",)).test_client()
            assert app.post("/events", **signed_event("churn", secret="s3cret")).status_code == 202
            wait_for(deployments, "3")

        wait(lambda: status_tags() == {"1": "replaced by 2", "2": "replaced by 3", "3": "serving"})


def status_tags() -> dict[str, str]:
    client = MlflowClient()
    tags = {version: client.get_model_version("churn", version).tags for version in ("1", "2", "3")}
    return {version: found.get("fargate.default.churn.status", "") for version, found in tags.items()}


def test_a_model_inside_its_run_is_found(server: str) -> None:
    client = MlflowClient(server)
    run = client.create_run(client.create_experiment("runs", artifact_location="s3://models/runs"))

    place = ModelRegistry(server, server).follow(f"runs:/{run.info.run_id}/model")

    assert place.artifact_uri == f"{run.info.artifact_uri}/model"


def register(folder: Path) -> Callable[[str], object]:
    """Registers three versions of a model in S3, and returns a function that promotes one."""
    mlflow.pyfunc.save_model(folder / "model", python_model=Doubler(), pip_requirements=["mlflow"])
    client, s3 = MlflowClient(), boto3.client("s3")
    s3.create_bucket(Bucket="models")
    client.create_registered_model("churn")
    for number in ("1", "2", "3"):
        for path in filter(Path.is_file, (folder / "model").rglob("*")):
            s3.upload_file(str(path), "models", f"churn/{number}/{path.relative_to(folder / 'model')}")
        client.create_model_version("churn", f"s3://models/churn/{number}")

    def promote(version: str) -> object:
        return client.transition_model_version_stage("churn", version, "Production", archive_existing_versions=True)

    return promote


@contextmanager
def following(server: str, deployments: BaseDeploymentClient, poll_seconds: float) -> Iterator[Worker]:
    timing = Timing(poll_seconds=poll_seconds, rest_seconds=0.1)
    worker = Worker(connect=lambda: deployments, registry=MlflowModelRegistry(server), timing=timing)
    worker.start()
    try:
        yield worker
    finally:
        assert worker.stop(60)


def wait_for(deployments: BaseDeploymentClient, version: str) -> None:
    def is_deployed() -> bool:
        status = deployments.get_deployment("churn")
        return (status["model_version"], status["state"]) == (version, "COMPLETED")

    wait(is_deployed)


def wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline, "the expected state was not reached in time"
        time.sleep(0.2)

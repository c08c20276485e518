"""Deployers against the local stack's AWS in this process: real rollouts of a tiny image; only the model is fake."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from mlflow_fargate.aws.account import Account
from mlflow_fargate.config import DeploymentConfig, NamedOptions
from mlflow_fargate.deployments import deployer as story
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.progress import Progress, RecordedProgress
from mlflow_fargate.resolved_model import ResolvedModel
from mlflow_fargate.target import Target, TargetEnvironment
from support.local_aws import running_aws
from support.registry import SERVER

READS = re.compile(r"^(Describe|List|Get|Batch(Get|Check))")
QUICK = {"deregistration_delay_seconds": 0, "health_check_grace_seconds": 0, "auth": "none"}
CRASHING = "models:/churn/13"
TARGET = "fargate:/us-east-1"
# /invocations returns the request itself, so that a test sees what a model would get.
ECHO = SERVER.replace(
    "    def do_GET(self):",
    "    def do_POST(self):\n"
    "        asked = json.loads(self.rfile.read(int(self.headers['Content-Length'])))\n"
    "        self.answer(200, {'predictions': asked})\n"
    "    def do_GET(self):",
)


@dataclass
class FakePublisher:
    """Resolves every version of every model, and has one image for all of them.

    What is not at models:/ is not registered.
    """

    image: str
    cache = Path("/nowhere")

    def resolve(self, model_uri: str, labels: str | None) -> ResolvedModel:
        version = model_uri.rpartition("/")[2]
        number = "1" if version == "Production" else version
        return ResolvedModel(
            requested_uri=model_uri,
            resolved_uri=f"models:/churn/{number}",
            artifact_uri=f"s3://models/{number}",
            files=(),
            metadata={"flavors": {"python_function": {}, "sklearn": {}}},
            name="churn" if model_uri.startswith("models:") else None,
            version=number if model_uri.startswith("models:") else None,
            run_id="0123",
        )

    def find(self, name: str, model: ResolvedModel, config: DeploymentConfig) -> str | None:
        return None

    def publish(self, name: str, model: ResolvedModel, config: DeploymentConfig) -> str:
        return self.image


@dataclass
class PreparingPublisher(FakePublisher):
    """Also ensures the repository, as the real publisher does before it pushes."""

    account: Account
    endpoint: str = "default"

    def publish(self, name: str, model: ResolvedModel, config: DeploymentConfig) -> str:
        self.account.endpoint(self.endpoint).repository.ensure()
        return self.image


@pytest.fixture(scope="module")
def aws_url(registry: LocalRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_aws(tmp_path_factory.mktemp("aws"), registry=registry, minute_seconds=1) as aws:
        yield aws.url


def make_deployer(aws_url: str, image: str) -> Deployer:
    """Returns a Deployer that deploys `image` for every model to the AWS of `running_aws`."""
    target = Target(TARGET, region="us-east-1", environment=TargetEnvironment(aws_url, "local", "local"))
    publisher = FakePublisher(image)
    return Deployer(target, Account(target), lambda: publisher, RecordedProgress())  # type: ignore[arg-type,return-value]


@pytest.fixture
def deployer(aws_url: str, push_image: Callable[..., str]) -> Iterator[Deployer]:
    deployer = make_deployer(aws_url, push_image())
    try:
        yield deployer
    finally:
        for status in list(deployer.list()):
            deployer.delete(status.name)


@pytest.fixture(scope="module")
def plugged_in(aws_url: str, push_image: Callable[..., str]) -> Iterator[Deployer]:
    """Makes MLflow's API and commands use this deployer for `TARGET` in a module's tests; its image echoes requests."""
    deployer = make_deployer(aws_url, push_image({"opt/app/src/server.py": ECHO}))

    def for_target(asked: Target, account: Account, cache: Path, progress: Progress) -> Deployer:
        return replace(deployer, target=replace(deployer.target, endpoint=asked.endpoint), progress=progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(story, "make_deployer", for_target)
        try:
            yield deployer
        finally:
            for status in list(deployer.list()):
                deployer.delete(status.name)


def create(deployer: Deployer, name: str = "churn", uri: str = "models:/churn/Production", **options: Any) -> None:
    deployer.create(name, uri, None, NamedOptions({**QUICK, **options}))


def answer(url: str) -> dict[str, Any]:
    response = requests.get(f"{url}/anything", timeout=10)
    response.raise_for_status()
    found: dict[str, Any] = response.json()
    return found


def count_writes(deployer: Deployer, act: Callable[[Deployer], object]) -> Counter[str]:
    """Returns the write operations that reach AWS while `act` runs, counted below boto3."""
    account = Account(deployer.target)
    seen: Counter[str] = Counter()
    account.session._session.events.register("before-call.*", lambda model, **_: seen.update([model.name]))
    counted = replace(deployer, account=account)
    act(counted)
    return Counter({name: count for name, count in seen.items() if not READS.match(name)})


def use_account(monkeypatch: pytest.MonkeyPatch, deployer: Deployer) -> None:
    """Makes plain boto3 clients use the deployer's account."""
    environment = deployer.target.environment
    monkeypatch.setenv("AWS_ENDPOINT_URL", environment.aws_endpoint_url or "")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)

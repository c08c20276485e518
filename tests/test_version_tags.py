"""Tags on a model version about the deployments that serve it: alone, from real rollouts, and in MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import mlflow
import pytest
from botocore.exceptions import ClientError

from mlflow_fargate.aws.account import Account
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployments import operations
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.deployments.version_tags import VersionTags
from mlflow_fargate.errors import (
    AwsError,
    DeploymentNotFound,
    ModelNotFound,
    RegistryError,
    RolloutFailed,
    RolloutTimeout,
)
from mlflow_fargate.model import tag_model_version
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.resolved_model import Provenance
from support.deployer import CRASHING, create
from support.mlflow_server import LoggedModels, MlflowServer

VERSION_1 = Provenance("models:/churn/Production", "models:/churn/1", "f", "sklearn", "churn", "1")


@dataclass
class Registry:
    """Records the tags of versions; refuses them if `refusal` is set."""

    tags: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    refusal: str | None = None

    def write(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        if self.refusal:
            raise ModelNotFound(self.refusal)
        self.tags.setdefault((name, version), {}).update(tags)

    def status(self, version: str) -> str:
        return self.tags["churn", version]["fargate.default.churn.status"]


def tags_for(registry: Registry) -> VersionTags:
    return VersionTags("default", "churn", registry.write, RecordedProgress())


def test_a_failure_is_tagged_with_its_reason_and_raised() -> None:
    registry = Registry()

    with pytest.raises(RegistryError), tags_for(registry).tagging_failure(VERSION_1, None):
        raise RegistryError("http://me:s3cret@registry said\n no", hint="x" * 999)

    assert registry.status("1").startswith("failed: http://registry said no hint: xxx")
    assert len(registry.status("1")) < 520


def test_a_failed_start_is_tagged_with_its_cause_alone() -> None:
    registry = Registry()

    with pytest.raises(RolloutFailed), tags_for(registry).tagging_failure(VERSION_1, None):
        raise RolloutFailed(
            f"The rollout failed: {'x' * 999}\n    | ModelLoadError: KeyError: 'a'\n  Nothing", hint="b"
        )

    assert registry.status("1") == "failed: ModelLoadError: KeyError: 'a'"


def test_a_timeout_is_not_tagged_as_a_failure() -> None:
    registry = Registry()

    with pytest.raises(RolloutTimeout), tags_for(registry).tagging_failure(VERSION_1, None):
        raise RolloutTimeout("not yet")

    assert registry.status("1") == "deploying"


def test_an_unregistered_model_is_not_tagged() -> None:
    registry = Registry()

    tags_for(registry).tag(replace(VERSION_1, name=None, version=None), "serving")

    assert registry.tags == {}


@pytest.mark.slow
def test_versions_are_tagged_with_their_deployments_and_results(deployer: Deployer) -> None:
    registry = Registry()
    deployer = replace(deployer, write_tags=registry.write)
    create(deployer, uri="models:/churn/1")
    first = dict(registry.tags["churn", "1"])
    deployer.update("churn", "models:/churn/2", None, NamedOptions())
    with pytest.raises(RolloutFailed):
        deployer.update("churn", CRASHING, None, NamedOptions({"environment.MODE": "crash"}))
    after_failure = [registry.status(version) for version in ("1", "2", "13")]
    deployer.delete("churn")

    assert first["fargate.default.churn.status"] == "serving"
    assert first["fargate.default.churn.url"].endswith("/churn")
    assert "@sha256:" in first["fargate.default.churn.image"]
    assert first["fargate.default.churn.updated"].endswith("+00:00")
    assert after_failure[:2] == ["replaced by 2", "serving"]
    assert after_failure[2].startswith("failed: ")
    assert registry.status("2") == "deleted"


def at_update_service(deployer: Deployer, registry: Registry, happens: Callable[[], object]) -> Deployer:
    """Another client, to which something happens just before it calls UpdateService."""
    account = Account(deployer.target)
    account.session._session.events.register("before-call.ecs.UpdateService", lambda **_: happens())
    return replace(deployer, account=account, write_tags=registry.write)


def refuse() -> None:
    refused = {"Error": {"Code": "AccessDeniedException", "Message": "no"}}
    raise ClientError(refused, "UpdateService")


@pytest.mark.slow
def test_a_version_that_still_serves_is_not_tagged_as_failed(deployer: Deployer) -> None:
    registry = Registry()
    create(deployer, uri="models:/churn/1", desired_count=0)
    client = at_update_service(deployer, registry, refuse)

    with pytest.raises(AwsError):
        operations.scale(client, "churn", 1)
    assert registry.tags == {}
    with pytest.raises(AwsError):
        client.update("churn", "models:/churn/2", None, NamedOptions())
    assert registry.status("2").startswith("failed: ")


@pytest.mark.slow
def test_an_update_of_what_another_command_deletes_says_so_and_does_not_blame_the_version(deployer: Deployer) -> None:
    registry = Registry()
    create(deployer, uri="models:/churn/1", desired_count=0)
    client = at_update_service(deployer, registry, lambda: deployer.delete("churn"))

    with pytest.raises(DeploymentNotFound, match="Another command deleted 'churn' after this one began"):
        client.update("churn", "models:/churn/2", None, NamedOptions())

    assert registry.tags == {}


@pytest.mark.slow
def test_a_registry_that_refuses_tags_does_not_break_a_deployment(deployer: Deployer) -> None:
    deployer = replace(deployer, write_tags=Registry(refusal="read only").write)

    create(deployer)

    assert deployer.get("churn").state == "COMPLETED"
    assert "the model version was not tagged: read only" in deployer.progress.lines  # type: ignore[attr-defined]


@pytest.mark.slow
def test_an_update_without_changes_writes_no_tag(deployer: Deployer) -> None:
    registry = Registry()
    create(deployer)

    replace(deployer, write_tags=registry.write).update("churn", None, None, NamedOptions())

    assert registry.tags == {}


@pytest.mark.slow
def test_the_revision_in_aws_records_model_run_and_source(deployer: Deployer) -> None:
    create(deployer, uri="models:/churn/3")

    arn = deployer.get("churn").task_definition
    listed = deployer.account.session.call("ecs", "list_tags_for_resource", resourceArn=arn)["tags"]

    told = {tag["key"]: tag["value"] for tag in listed}
    assert (told["mlflow-fargate:model"], told["mlflow-fargate:model-version"]) == ("churn", "3")
    assert (told["mlflow-fargate:run-id"], told["mlflow-fargate:source"]) == ("0123", "models:/churn/3")


@pytest.mark.slow
def test_the_tags_are_in_mlflow(
    mlflow_server: MlflowServer, logged_models: LoggedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", mlflow_server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)

    tag_model_version("iris", "1", {"fargate.default.iris.status": "failed: no such image"})

    tags = mlflow.MlflowClient().get_model_version("iris", "1").tags
    assert tags["fargate.default.iris.status"] == "failed: no such image"
    with pytest.raises(ModelNotFound, match="models:/iris/99 could not be read"):
        tag_model_version("iris", "99", {"a": "b"})

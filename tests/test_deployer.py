"""Deployments against the local stack's AWS: real rollouts of a tiny image; only the model is made up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import pytest

from examples.inventory import inventory
from mlflow_fargate.config import DeploymentConfig, NamedOptions
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import (
    DeploymentExists,
    DeploymentNotFound,
    EndpointInUse,
    EndpointNotFound,
    ForeignResource,
    InvalidOption,
    ModelNotFound,
    RolloutFailed,
    RolloutTimeout,
)
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.resolved_model import ResolvedModel
from support.deployer import CRASHING, QUICK, FakePublisher, answer, count_writes, create, use_account

pytestmark = pytest.mark.slow


@dataclass
class RecordingPublisher(FakePublisher):
    """Notes what images were built of."""

    published: list[tuple[str, str | None]] = field(default_factory=list)

    def publish(self, name: str, model: ResolvedModel, config: DeploymentConfig) -> str:
        self.published.append((model.resolved_uri, config.base_image))
        return self.image


def test_a_created_deployment_answers_and_says_what_it_is(deployer: Deployer) -> None:
    create(deployer, **{"environment.VERSION": "1"})

    status = deployer.get("churn")

    assert (status.state, status.running_count) == ("COMPLETED", 1)
    assert status.follow == "Production"
    assert status.provenance.resolved_uri == "models:/churn/1"
    assert status.provenance.run_id == "0123"
    assert answer(status.url)["version"] == "1"
    assert [found.name for found in deployer.list()] == ["churn"]


def test_a_name_that_is_taken_is_refused(deployer: Deployer) -> None:
    create(deployer)

    with pytest.raises(DeploymentExists, match="There is already a deployment 'churn'"):
        create(deployer)


def test_an_update_keeps_what_is_not_named_again(deployer: Deployer) -> None:
    create(deployer, **{"environment.VERSION": "1", "cpu": "512", "memory": "2048"})

    deployer.update("churn", None, None, NamedOptions({"environment.MODE": "calm"}))

    status = deployer.get("churn")
    assert (status.settings.cpu, status.settings.memory_mib) == (512, 2048)
    assert status.follow == "Production"
    environment = answer(status.url)["environment"]
    assert (environment["VERSION"], environment["MODE"]) == ("1", "calm")


def test_an_option_that_shapes_the_image_builds_it_anew_of_the_version_that_runs(deployer: Deployer) -> None:
    publisher = RecordingPublisher(deployer.publisher.image)  # type: ignore[attr-defined]
    deployer = replace(deployer, make_publisher=lambda: publisher)  # type: ignore[arg-type]
    create(deployer, desired_count=0)
    base = "registry.example.com/python:3.11"

    deployer.update("churn", None, None, NamedOptions({"base_image": base}))
    deployer.update("churn", None, None, NamedOptions({"log_retention_days": 7}))

    assert publisher.published == [("models:/churn/1", None), ("models:/churn/1", base)]
    status = deployer.get("churn")
    assert (status.provenance.requested_uri, status.follow) == ("models:/churn/Production", "Production")
    assert status.settings.base_image == base


@dataclass
class ReplacingPublisher(RecordingPublisher):
    """Resolves every version to the model that was registered with that number again."""

    def resolve(self, model_uri: str, labels: str | None) -> ResolvedModel:
        model = super().resolve(model_uri, labels)
        return replace(model, artifact_uri=f"{model.artifact_uri}/again", run_id="4567", registered_ms=2)


def test_an_option_that_shapes_the_image_does_not_deploy_another_model_of_that_number(deployer: Deployer) -> None:
    create(deployer, uri="models:/churn/1", desired_count=0)
    before = deployer.get("churn")
    publisher = ReplacingPublisher(deployer.publisher.image)  # type: ignore[attr-defined]
    deployer = replace(deployer, make_publisher=lambda: publisher)  # type: ignore[arg-type]

    with pytest.raises(ModelNotFound, match="churn version 1 is not the model that was deployed"):
        deployer.update("churn", None, None, NamedOptions({"batching": "false"}))

    assert (publisher.published, deployer.get("churn")) == ([], before)
    deployer.update("churn", "models:/churn/1", None, NamedOptions({"batching": "false"}))
    assert deployer.get("churn").provenance.run_id == "4567"


def test_an_update_without_a_difference_writes_nothing(deployer: Deployer) -> None:
    create(deployer)

    writes = count_writes(
        deployer, lambda counted: counted.update("churn", "models:/churn/Production", None, NamedOptions())
    )

    assert writes == Counter()


def test_a_dry_run_prints_the_plan_and_writes_nothing(deployer: Deployer) -> None:
    create(deployer)

    writes = count_writes(
        deployer,
        lambda it: it.update("churn", "models:/churn/2", None, NamedOptions({"desired_count": 2, "dry_run": True})),
    )

    assert writes == Counter()
    assert any("to be built" in line for line in deployer.progress.lines)  # type: ignore[attr-defined]
    assert any("desired_count: 1 → 2" in line for line in deployer.progress.lines)  # type: ignore[attr-defined]


def test_a_manual_update_to_a_version_pins_the_deployment(deployer: Deployer) -> None:
    create(deployer)

    deployer.update("churn", "models:/churn/2", None, NamedOptions())

    status = deployer.get("churn")
    assert (status.follow, status.provenance.version) == ("pinned", "2")
    warnings = [line for line in deployer.progress.lines if line.startswith("warning: follow: Production → pinned")]  # type: ignore[attr-defined]
    assert len(warnings) == 1


def test_a_version_that_does_not_start_is_rolled_back_and_the_error_says_why(deployer: Deployer) -> None:
    create(deployer, **{"environment.VERSION": "1"})

    with pytest.raises(RolloutFailed) as caught:
        deployer.update("churn", CRASHING, None, NamedOptions({"environment.MODE": "crash"}))

    assert "boom: the model cannot be loaded" in str(caught.value)
    assert "1 task(s) of the previous version are still serving" in str(caught.value)
    status = deployer.get("churn")
    assert status.provenance.version == "1"
    assert status.last_failed_version == "13"
    assert answer(status.url)["version"] == "1"
    assert "MODE" not in status.settings.environment


def test_a_first_deployment_that_failed_is_finished_by_creating_it_again(deployer: Deployer) -> None:
    with pytest.raises(RolloutFailed, match="Nothing is serving now"):
        create(deployer, **{"environment.MODE": "crash", "environment.VERSION": "1"})

    create(deployer, **{"environment.MODE": "calm"})

    assert deployer.get("churn").state == "COMPLETED"
    assert answer(deployer.get("churn").url)["version"] == "1"


def test_a_rollout_that_takes_too_long_goes_on_and_can_be_taken_up_again(deployer: Deployer) -> None:
    with pytest.raises(RolloutTimeout, match="it continues in ECS"):
        create(deployer, timeout_seconds=1, **{"environment.MODE": "never"})


def test_the_api_key_reaches_the_container_and_the_caller_but_no_tag(deployer: Deployer) -> None:
    create(deployer, auth="api_key")

    status = deployer.get("churn")
    assert status.api_key_secret is not None
    key = deployer.account.read_api_key(status.api_key_secret)

    assert answer(status.url)["key"] == key
    assert len(key) >= 40
    described = deployer.account.session.call("ecs", "describe_task_definition", taskDefinition=status.task_definition)
    assert key not in str(described)


def test_only_another_count_registers_no_revision_and_starts_no_rollout(deployer: Deployer) -> None:
    create(deployer)
    before = deployer.get("churn")

    writes = count_writes(
        deployer, lambda counted: counted.update("churn", None, None, NamedOptions({"desired_count": 2}))
    )
    again = count_writes(
        deployer, lambda counted: counted.update("churn", "models:/churn/Production", None, NamedOptions())
    )

    after = deployer.get("churn")
    assert (writes, again) == (Counter(["UpdateService"]), Counter())
    assert (after.desired_count, after.running_count) == (2, 2)
    assert (after.task_definition, after.updated_at) == (before.task_definition, before.updated_at)


def test_scaling_reports_only_its_own_events_and_at_zero_claims_no_answer(deployer: Deployer) -> None:
    create(deployer)
    scaling = replace(deployer, progress=RecordedProgress())

    scaling.update("churn", None, None, NamedOptions({"desired_count": 0}))

    lines = scaling.progress.lines  # type: ignore[attr-defined]
    assert "churn is scaled to 0 tasks" in lines[-2]
    assert not [line for line in lines if "has started" in line or " is at " in line or "of 0 new tasks" in line]
    assert [line for line in lines if "desired_count: 1 → 0" in line]


def test_a_mistyped_name_gets_a_suggestion(deployer: Deployer) -> None:
    create(deployer)

    with pytest.raises(DeploymentNotFound, match="did you mean 'churn'"):
        deployer.get("chrun")
    with pytest.raises(EndpointNotFound, match="did you mean 'default'"):
        deployer.get_endpoint("defaultt")


def test_two_deployments_share_an_endpoint_and_do_not_meet(deployer: Deployer) -> None:
    create(deployer, "first", **{"environment.VERSION": "a"})
    create(deployer, "second", **{"environment.VERSION": "b"})

    answers = {status.name: answer(status.url)["version"] for status in deployer.list()}
    deployer.delete("first")

    assert answers == {"first": "a", "second": "b"}
    assert [status.name for status in deployer.list()] == ["second"]
    assert answer(deployer.get("second").url)["version"] == "b"


def test_deleting_leaves_nothing_and_can_be_done_twice(deployer: Deployer, monkeypatch: pytest.MonkeyPatch) -> None:
    create(deployer, auth="api_key", secrets={"TOKEN": secret_of(deployer)})

    deployer.delete("churn")
    deployer.delete("churn")

    lines = deployer.progress.lines  # type: ignore[attr-defined]
    assert lines.count("There is no 'churn' on endpoint 'default' to delete") == 1
    use_account(monkeypatch, deployer)
    left = inventory()
    assert {what: count for what, count in left.items() if what not in ("images", "secrets")} == dict.fromkeys(
        ["services", "task definitions", "target groups", "listener rules", "log groups", "scaling targets"], 0
    )
    assert left["secrets"] == 1  # the one that was there before
    with pytest.raises(DeploymentNotFound):
        deployer.get("churn")


def test_an_endpoint_with_deployments_is_not_deleted(deployer: Deployer) -> None:
    create(deployer)

    with pytest.raises(EndpointInUse, match="still has deployments: churn"):
        deployer.delete_endpoint("default")


def test_a_service_that_is_not_ours_is_never_touched(deployer: Deployer) -> None:
    create(deployer, "other")
    session = deployer.account.session
    mine = session.call("ecs", "describe_services", cluster="mlflow-fargate-default", services=["other"])["services"][0]
    session.call("ecs", "untag_resource", resourceArn=mine["serviceArn"], tagKeys=["managed-by"])
    try:
        with pytest.raises(ForeignResource, match="service 'other'"):
            create(deployer, "other")
    finally:
        back = [{"key": "managed-by", "value": "mlflow-fargate"}]
        session.call("ecs", "tag_resource", resourceArn=mine["serviceArn"], tags=back)


def test_an_unknown_flavor_is_reported_before_anything_is_built(deployer: Deployer) -> None:
    with pytest.raises(ModelNotFound, match="no flavor 'xgboost'"):
        deployer.create("churn", "models:/churn/1", "xgboost", NamedOptions(QUICK))


def test_a_flavor_without_a_model_is_refused(deployer: Deployer) -> None:
    create(deployer)

    with pytest.raises(InvalidOption, match="without a model URI"):
        deployer.update("churn", None, "sklearn", NamedOptions())


def secret_of(deployer: Deployer) -> str:
    """ARN of a secret of the user's own."""
    session = deployer.account.session
    return str(session.call("secretsmanager", "create_secret", Name="users-own", SecretString="s3cret")["ARN"])


def test_an_update_registers_a_deregistered_revision_again(deployer: Deployer) -> None:
    create(deployer)
    before = deployer.get("churn").task_definition
    deployer.account.session.call("ecs", "deregister_task_definition", taskDefinition=before)

    deployer.update("churn", None, None, NamedOptions())

    after = deployer.get("churn")
    assert (after.state, after.running_count) == ("COMPLETED", 1)
    assert after.task_definition != before
    plan, _ = deployer.preview("churn", None, None, NamedOptions())
    assert plan.is_empty, str(plan)

"""What was deleted by hand, or by another command, is found by its identifier, and the same command repairs it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from mlflow_fargate.aws.resource_types.task_definition import LABEL
from mlflow_fargate.config import DeploymentConfig, NamedOptions
from mlflow_fargate.deployments import operations
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import DeploymentNotFound, InvalidOption
from mlflow_fargate.resolved_model import ResolvedModel
from mlflow_fargate.resources import MANAGED_BY
from support.deployer import FakePublisher, count_writes, create

pytestmark = pytest.mark.slow

SECRET = "mlflow-fargate/default/churn"


def call(deployer: Deployer, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
    return deployer.account.session.call(service, operation, **parameters)


def update(deployer: Deployer, uri: str | None = None, **options: Any) -> None:
    deployer.update("churn", uri, None, NamedOptions(options))


def running_definition(deployer: Deployer) -> dict[str, Any]:
    arn = deployer.get("churn").task_definition
    return call(deployer, "ecs", "describe_task_definition", taskDefinition=arn)["taskDefinition"]  # type: ignore[no-any-return]


def secret_of_the_tasks(deployer: Deployer) -> str:
    secrets = running_definition(deployer)["containerDefinitions"][0]["secrets"]
    return next(str(item["valueFrom"]) for item in secrets if item["name"] == "API_KEY")


def test_tasks_get_the_new_key_when_the_secret_was_deleted(deployer: Deployer) -> None:
    create(deployer, auth="api_key", desired_count=0)
    before = secret_of_the_tasks(deployer)
    call(deployer, "secretsmanager", "delete_secret", SecretId=before, ForceDeleteWithoutRecovery=True)

    plan, _ = deployer.preview("churn", None, None, NamedOptions())
    update(deployer)

    assert "auth: api_key of a deleted secret → api_key" in str(plan)
    now = secret_of_the_tasks(deployer)
    assert now != before
    assert now == deployer.get("churn").api_key_secret
    assert deployer.account.read_api_key(now)
    assert deployer.preview("churn", None, None, NamedOptions())[0].is_empty


def test_a_secret_that_is_scheduled_for_deletion_is_restored_with_its_key(deployer: Deployer) -> None:
    create(deployer, auth="api_key", desired_count=0)
    arn = secret_of_the_tasks(deployer)
    key = deployer.account.read_api_key(arn)
    call(deployer, "secretsmanager", "delete_secret", SecretId=arn, RecoveryWindowInDays=7)

    writes = count_writes(deployer, update)

    assert dict(writes) == {"RestoreSecret": 1}
    assert secret_of_the_tasks(deployer) == arn
    assert deployer.account.read_api_key(arn) == key


def test_a_deployment_whose_secret_is_scheduled_for_deletion_can_be_deleted_and_created_again(
    deployer: Deployer,
) -> None:
    create(deployer, auth="api_key", desired_count=0)
    arn = secret_of_the_tasks(deployer)
    call(deployer, "secretsmanager", "delete_secret", SecretId=arn, RecoveryWindowInDays=7)

    deployer.delete("churn")
    create(deployer, auth="api_key", desired_count=0)

    assert secret_of_the_tasks(deployer) != arn


def test_tasks_get_the_role_that_replaced_theirs_under_another_path(deployer: Deployer) -> None:
    create(deployer, desired_count=0)
    before = running_definition(deployer)["executionRoleArn"]
    name = before.rpartition("/")[2]
    for policy in call(deployer, "iam", "list_role_policies", RoleName=name)["PolicyNames"]:
        call(deployer, "iam", "delete_role_policy", RoleName=name, PolicyName=policy)
    call(deployer, "iam", "delete_role", RoleName=name)

    update(deployer, role_path="/team/")

    now = running_definition(deployer)["executionRoleArn"]
    assert now == call(deployer, "iam", "get_role", RoleName=name)["Role"]["Arn"]
    assert (now, before) == (before.replace("role/", "role/team/"), before)
    assert deployer.preview("churn", None, None, NamedOptions())[0].is_empty


def test_a_service_without_its_task_definition_blocks_no_other_command(deployer: Deployer) -> None:
    create(deployer, "other", uri="models:/churn/4", desired_count=0)
    create(deployer, uri="models:/churn/1", desired_count=0)
    arn = deployer.get("churn").task_definition
    delete_revision(deployer, arn)

    assert [(status.name, status.image == "", status.state) for status in deployer.list()] == [
        ("churn", True, "FAILED"),
        ("other", False, "COMPLETED"),
    ]
    assert deployer.preview("other", None, None, NamedOptions())[0].is_empty
    with pytest.raises(InvalidOption, match="the record of its model"):
        update(deployer)

    update(deployer, "models:/churn/2", auth="none")

    assert deployer.get("churn").provenance.version == "2"
    assert deployer.preview("churn", None, None, NamedOptions())[0].is_empty
    delete_revision(deployer, deployer.get("churn").task_definition)
    deployer.delete("churn")
    with pytest.raises(DeploymentNotFound):
        deployer.get("churn")


def run_with_label(deployer: Deployer, label: str) -> None:
    """Makes the service run a copy of its revision with another label, as an edit in the console does."""
    definition = running_definition(deployer)
    definition["containerDefinitions"][0]["dockerLabels"] = {LABEL: label}
    ecs = deployer.account.session.client("ecs")
    known = ecs.meta.service_model.operation_model("RegisterTaskDefinition").input_shape.members
    request = {key: value for key, value in definition.items() if key in known}
    owner = [{"key": key, "value": value} for key, value in MANAGED_BY.items()]
    arn = ecs.register_task_definition(**request, tags=owner)["taskDefinition"]["taskDefinitionArn"]
    ecs.update_service(cluster=deployer.endpoint.cluster, service="churn", taskDefinition=arn)


def test_a_damaged_record_blocks_no_other_command_and_can_be_replaced_or_deleted(deployer: Deployer) -> None:
    create(deployer, "other", uri="models:/churn/4", desired_count=0)
    create(deployer, uri="models:/churn/1", desired_count=0)
    run_with_label(deployer, '{"provenance": {')

    states = [(status.name, status.image == "", status.state) for status in deployer.list()]
    assert states == [("churn", True, "FAILED"), ("other", False, "COMPLETED")]
    assert [item.provenance.version for item in operations.history(deployer, "churn")] == ["1"]
    with pytest.raises(InvalidOption, match="the record of its model"):
        update(deployer)
    update(deployer, "models:/churn/2", auth="none")
    assert deployer.get("churn").provenance.version == "2"
    run_with_label(deployer, "[]")
    deployer.delete("churn")

    assert [status.name for status in deployer.list()] == ["other"]


def delete_revision(deployer: Deployer, arn: str) -> None:
    call(deployer, "ecs", "deregister_task_definition", taskDefinition=arn)
    call(deployer, "ecs", "delete_task_definitions", taskDefinitions=[arn])


@dataclass
class SlowPublisher(FakePublisher):
    """Another command sets the number of tasks while the image is built."""

    meanwhile: Deployer
    count: int

    def publish(self, name: str, model: ResolvedModel, config: DeploymentConfig) -> str:
        operations.scale(self.meanwhile, name, self.count)
        return self.image


def test_an_update_keeps_the_number_of_tasks_that_another_command_set_meanwhile(deployer: Deployer) -> None:
    create(deployer, uri="models:/churn/1")
    slow = SlowPublisher(deployer.publisher.image, deployer, 2)  # type: ignore[attr-defined]
    slower = replace(deployer, make_publisher=lambda: slow)  # type: ignore[arg-type]

    update(slower, "models:/churn/2")
    status = deployer.get("churn")
    assert (status.provenance.version, status.desired_count, status.running_count) == ("2", 2, 2)

    update(slower, "models:/churn/4", desired_count=1)
    assert deployer.get("churn").desired_count == 1

"""Foreign resources under a name that a deployment needs stop it before its first write, and are not changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from mlflow_fargate.aws.account import Account
from mlflow_fargate.config import NamedOptions, parse_config
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import ForeignResource
from mlflow_fargate.resolved_model import Provenance
from mlflow_fargate.resources import DeploymentSpec, target_group_name
from support.deployer import QUICK, PreparingPublisher, count_writes

pytestmark = pytest.mark.slow

NAME = "mlflow-fargate-strange"
OPTIONS = {**QUICK, "auth": "api_key", "desired_count": 0}
Call = Callable[..., dict[str, Any]]
TRUST = '{"Version": "2012-10-17", "Statement": []}'


@pytest.fixture
def client(deployer: Deployer) -> Iterator[Deployer]:
    """On an endpoint of its own that does not exist."""
    client = replace(deployer, target=replace(deployer.target, endpoint="strange"))
    yield client
    client.delete_endpoint("strange")


def cluster(account: Account) -> Callable[[], object]:
    account.session.call("ecs", "create_cluster", clusterName=NAME)
    return lambda: account.session.call("ecs", "delete_cluster", cluster=NAME)


def execution_role(account: Account) -> Callable[[], object]:
    role = f"{NAME}-us-east-1"
    account.session.call("iam", "create_role", RoleName=role, AssumeRolePolicyDocument=TRUST)
    return lambda: account.session.call("iam", "delete_role", RoleName=role)


def task_security_group(account: Account) -> Callable[[], object]:
    vpc = account.endpoint("strange").spec(parse_config(None)).network.vpc
    group = account.session.call("ec2", "create_security_group", GroupName=f"{NAME}-tasks", Description="x", VpcId=vpc)[
        "GroupId"
    ]
    return lambda: account.session.call("ec2", "delete_security_group", GroupId=group)


def load_balancer(account: Account) -> Callable[[], object]:
    subnets = account.endpoint("strange").spec(parse_config(None)).network.subnets
    made = account.session.call("elbv2", "create_load_balancer", Name=NAME, Subnets=list(subnets))["LoadBalancers"][0]
    return lambda: account.session.call("elbv2", "delete_load_balancer", LoadBalancerArn=made["LoadBalancerArn"])


def log_group(account: Account) -> Callable[[], object]:
    group = "/mlflow-fargate/strange/churn"
    account.session.call("logs", "create_log_group", logGroupName=group)
    return lambda: account.session.call("logs", "delete_log_group", logGroupName=group)


def api_key(account: Account) -> Callable[[], object]:
    account.session.call("secretsmanager", "create_secret", Name="mlflow-fargate/strange/churn", SecretString="theirs")
    return lambda: account.session.call(
        "secretsmanager", "delete_secret", SecretId="mlflow-fargate/strange/churn", ForceDeleteWithoutRecovery=True
    )


def target_group(account: Account) -> Callable[[], object]:
    endpoint, config = account.endpoint("strange").spec(parse_config(None)), parse_config(OPTIONS)
    name = target_group_name(DeploymentSpec("churn", endpoint, config, "", Provenance("", "", "", ""), "pinned"))
    made = account.session.call(
        "elbv2",
        "create_target_group",
        Name=name,
        Protocol="HTTP",
        Port=80,
        VpcId=endpoint.network.vpc,
        TargetType="ip",
    )["TargetGroups"][0]
    return lambda: account.session.call("elbv2", "delete_target_group", TargetGroupArn=made["TargetGroupArn"])


def task_definition(account: Account) -> Callable[[], object]:
    container = {"name": "theirs", "image": "theirs", "memory": 128, "portMappings": [{"containerPort": 80}]}
    made = account.session.call(
        "ecs", "register_task_definition", family=f"{NAME}_churn", containerDefinitions=[container]
    )["taskDefinition"]["taskDefinitionArn"]
    return lambda: account.session.call("ecs", "deregister_task_definition", taskDefinition=made)


MAKERS = (
    cluster,
    execution_role,
    task_security_group,
    load_balancer,
    log_group,
    api_key,
    target_group,
    task_definition,
)


@pytest.mark.parametrize(
    "make", [MAKERS[0], *(pytest.param(make, marks=pytest.mark.exhaustive) for make in MAKERS[1:])]
)
def test_a_foreign_resource_of_our_name_stops_a_create_and_survives_a_delete(
    client: Deployer, make: Callable[[Account], Callable[[], object]]
) -> None:
    """The last line of each: only what is still there can be deleted by its owner."""
    delete_it = make(client.account)
    kind = {"api_key": "API key"}.get(make.__name__, make.__name__.replace("_", " "))

    def refused(counted: Deployer) -> None:
        with pytest.raises(ForeignResource, match=f"There is already a {kind} .* that mlflow-fargate did not create"):
            counted.create("churn", "models:/churn/1", None, NamedOptions(OPTIONS))

    assert count_writes(client, refused) == Counter()
    assert count_writes(client, lambda counted: counted.delete("churn")) == Counter()
    assert count_writes(client, lambda counted: counted.delete_endpoint("strange")) == Counter()
    delete_it()


def test_a_foreign_repository_of_our_name_takes_no_image_and_survives_a_delete(client: Deployer) -> None:
    call = client.account.session.call
    call("ecr", "create_repository", repositoryName="mlflow-fargate/strange")
    preparing = replace(
        client,
        make_publisher=lambda: PreparingPublisher(client.publisher.image, client.account, "strange"),  # type: ignore[arg-type,attr-defined]
    )
    try:
        with pytest.raises(ForeignResource, match="Repository 'mlflow-fargate/strange'"):
            preparing.create("churn", "models:/churn/1", None, NamedOptions(OPTIONS))
        with pytest.raises(ForeignResource, match="not created by mlflow-fargate"):
            client.delete_endpoint("strange")
    finally:
        call("ecr", "delete_repository", repositoryName="mlflow-fargate/strange")

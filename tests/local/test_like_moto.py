"""The responses that moto and the local engine have in common are the same: one contract, tested with both.

The engine replaces moto for services, tasks and rollouts (local/api/). These tests need no running task.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from mlflow_fargate.local.registry.server import LocalRegistry
from support.local_aws import running_aws

pytestmark = pytest.mark.slow

KEYS = {"region_name": "us-east-1", "aws_access_key_id": "local", "aws_secret_access_key": "local"}


class Ecs:
    """A boto3 client of one of the two, with a cluster, which can create a service without tasks."""

    def __init__(self, url: str) -> None:
        self.client = boto3.client("ecs", endpoint_url=url, config=Config(retries={"total_max_attempts": 1}), **KEYS)
        ec2 = boto3.client("ec2", endpoint_url=url, **KEYS)
        self.subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"][:2]]
        self.client.create_cluster(clusterName="cluster")

    def register(self) -> dict[str, Any]:
        answer = self.client.register_task_definition(
            family="churn",
            networkMode="awsvpc",
            requiresCompatibilities=["FARGATE"],
            cpu="256",
            memory="512",
            containerDefinitions=[{"name": "model", "image": "churn:1", "portMappings": [{"containerPort": 3000}]}],
        )
        definition: dict[str, Any] = answer["taskDefinition"]
        return definition

    def create(self, name: str, **more: Any) -> dict[str, Any]:
        service: dict[str, Any] = self.client.create_service(
            cluster="cluster",
            serviceName=name,
            taskDefinition=self.register()["taskDefinitionArn"],
            launchType="FARGATE",
            # moto answers 500 without the groups.
            networkConfiguration={"awsvpcConfiguration": {"subnets": self.subnets, "securityGroups": []}},
            **{"desiredCount": 0, **more},
        )["service"]
        return service

    def describe(self, *names: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.describe_services(cluster="cluster", services=[*names], include=["TAGS"])
        return answer


@pytest.fixture(scope="module")
def moto() -> Iterator[Ecs]:
    """In a process of its own, for moto has one state in each."""
    server = subprocess.Popen(
        [sys.executable, "-c", "from moto.server import main; main(['-p', '0'])"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert server.stderr
        address = next(found for line in server.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        yield Ecs(address[0])
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def local(registry: LocalRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ecs]:
    with running_aws(tmp_path_factory.mktemp("like-moto"), registry=registry) as aws:
        yield Ecs(aws.url)


@pytest.fixture(params=["moto", "local"])
def ecs(request: pytest.FixtureRequest) -> Ecs:
    found: Ecs = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Returns the name of a service that only this test uses."""
    return re.sub(r"\W+", "-", request.node.originalname)[:60].strip("-")


def refusal(call: Any, **parameters: Any) -> str:
    with pytest.raises(ClientError) as told:
        call(**parameters)
    return str(told.value.response["Error"]["Code"])


def test_a_new_service_is_described_with_its_settings(ecs: Ecs, name: str) -> None:
    made = ecs.create(name, tags=[{"key": "managed-by", "value": "another-tool"}])
    (found,) = ecs.describe(name)["services"]

    assert found["serviceArn"] == made["serviceArn"]
    assert found["serviceArn"].endswith(f":service/cluster/{name}")
    assert (found["status"], found["desiredCount"], found["serviceName"]) == ("ACTIVE", 0, name)
    assert found["taskDefinition"].startswith("arn:aws:ecs:us-east-1:123456789012:task-definition/churn:")
    assert found["tags"] == [{"key": "managed-by", "value": "another-tool"}]
    assert [deployment["status"] for deployment in found["deployments"]] == ["PRIMARY"]
    assert found["serviceArn"] in ecs.client.list_services(cluster="cluster")["serviceArns"]


def test_an_update_changes_only_the_given_settings(ecs: Ecs, name: str) -> None:
    before = ecs.create(name)
    definition = ecs.register()["taskDefinitionArn"]

    ecs.client.update_service(cluster="cluster", service=name, taskDefinition=definition, desiredCount=0)

    (found,) = ecs.describe(name)["services"]
    assert found["taskDefinition"] == definition != before["taskDefinition"]
    assert found["serviceArn"] == before["serviceArn"]


def test_a_deleted_service_is_no_longer_active(ecs: Ecs, name: str) -> None:
    ecs.create(name)

    ecs.client.delete_service(cluster="cluster", service=name, force=True)

    assert {service["status"] for service in ecs.describe(name)["services"]} <= {"INACTIVE", "DRAINING"}


def test_an_unknown_service_is_reported_as_missing(ecs: Ecs) -> None:
    answer = ecs.describe("nobody")

    assert answer["services"] == []
    assert [(failure["reason"], failure["arn"].rpartition("/")[2]) for failure in answer["failures"]] == [
        ("MISSING", "nobody")
    ]


def test_changing_or_deleting_an_unknown_service_is_refused(ecs: Ecs) -> None:
    assert refusal(ecs.client.update_service, cluster="cluster", service="nobody", desiredCount=1) in (
        "ServiceNotFoundException",
        "ServiceNotActiveException",
    )
    assert refusal(ecs.client.delete_service, cluster="cluster", service="nobody") == "ServiceNotFoundException"


def test_an_unknown_cluster_is_refused(ecs: Ecs) -> None:
    calls = ((ecs.client.describe_services, {"services": ["x"]}), (ecs.client.list_services, {}))
    for call, parameters in calls:
        assert refusal(call, cluster="nowhere", **parameters) == "ClusterNotFoundException"


def test_a_task_definition_is_numbered_described_and_deregistered(ecs: Ecs) -> None:
    first, second = ecs.register(), ecs.register()

    assert second["revision"] == first["revision"] + 1
    described = ecs.client.describe_task_definition(taskDefinition=first["taskDefinitionArn"])["taskDefinition"]
    assert (described["status"], described["cpu"], described["memory"]) == ("ACTIVE", "256", "512")
    ecs.client.deregister_task_definition(taskDefinition=first["taskDefinitionArn"])
    active = ecs.client.list_task_definitions(familyPrefix="churn", status="ACTIVE")["taskDefinitionArns"]
    assert first["taskDefinitionArn"] not in active
    assert second["taskDefinitionArn"] in active
    assert refusal(ecs.client.describe_task_definition, taskDefinition="churn:99999") == "ClientException"


def test_tags_of_a_service_are_changed_and_deleted(ecs: Ecs, name: str) -> None:
    arn = ecs.create(name)["serviceArn"]

    ecs.client.tag_resource(
        resourceArn=arn, tags=[{"key": "follow", "value": "Production"}, {"key": "b", "value": "c"}]
    )
    ecs.client.untag_resource(resourceArn=arn, tagKeys=["b"])

    assert ecs.describe(name)["services"][0]["tags"] == [{"key": "follow", "value": "Production"}]


def test_a_service_without_tasks_lists_none(ecs: Ecs, name: str) -> None:
    ecs.create(name)

    assert ecs.client.list_tasks(cluster="cluster", serviceName=name)["taskArns"] == []
    assert (ecs.describe(name)["services"][0]["runningCount"], ecs.describe(name)["failures"]) == (0, [])

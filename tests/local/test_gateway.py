"""The gateway as boto3 sees it: services that actually run, roll out and roll back; local ECR, load balancing and S3.

One gateway for the module, because moto has one state per process; every test has its own cluster, service and target
group, named `aws.name`.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from mlflow_fargate.local.engine.snapshot import ServiceSnapshot
from mlflow_fargate.local.registry.server import LocalRegistry
from support.local_aws import RunningAws, running_aws

PushImage = Callable[..., str]
# Short waits: boto3 itself does not send an interval below 5 s.
CONFIG = Config(parameter_validation=False, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})


class Aws:
    """A running gateway, its boto3 clients, and what one service needs."""

    def __init__(self, local: RunningAws) -> None:
        self.name = ""
        self.image = ""
        self.url = local.url
        self.balancer = local.load_balancer
        self.gateway = local.gateway
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service,
                region_name="us-east-1",
                endpoint_url=self.url,
                aws_access_key_id="local",
                aws_secret_access_key="local",
                config=CONFIG,
            )
        return self._clients[service]

    @property
    def ecs(self) -> Any:
        return self.client("ecs")

    def prepare(self) -> None:
        """Creates what all tests share: a log group and a load balancer."""
        self.client("logs").create_log_group(logGroupName="/models")
        ec2, elb = self.client("ec2"), self.client("elbv2")
        subnets = ec2.describe_subnets()["Subnets"][:2]
        self.subnets = [subnet["SubnetId"] for subnet in subnets]
        self.vpc = subnets[0]["VpcId"]
        self.load_balancer = elb.create_load_balancer(Name="front-door", Subnets=self.subnets)["LoadBalancers"][0]
        fixed = {"StatusCode": "404", "ContentType": "text/plain", "MessageBody": "nothing here"}
        self.listener_arn = elb.create_listener(
            LoadBalancerArn=self.load_balancer["LoadBalancerArn"],
            Port=80,
            Protocol="HTTP",
            DefaultActions=[{"Type": "fixed-response", "FixedResponseConfig": fixed}],
        )["Listeners"][0]["ListenerArn"]

    def begin_test(self, number: int) -> None:
        self.name = f"churn{number}"
        self.ecs.create_cluster(clusterName=self.name)
        self.group_arn = self.make_target_group(self.name, priority=number)

    def make_target_group(self, name: str, priority: int | None) -> str:
        elb = self.client("elbv2")
        arn: str = elb.create_target_group(
            Name=name,
            Protocol="HTTP",
            Port=3000,
            VpcId=self.vpc,
            TargetType="ip",
            HealthCheckPath=f"/{name}/readyz",
            HealthCheckIntervalSeconds=2,
            HealthCheckTimeoutSeconds=1,
            HealthyThresholdCount=2,
            UnhealthyThresholdCount=2,
        )["TargetGroups"][0]["TargetGroupArn"]
        delay = {"Key": "deregistration_delay.timeout_seconds", "Value": "1"}
        elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=[delay])
        if priority is not None:
            elb.create_rule(
                ListenerArn=self.listener_arn,
                Priority=priority,
                Conditions=[{"Field": "path-pattern", "PathPatternConfig": {"Values": [f"/{name}/*"]}}],
                Actions=[{"Type": "forward", "ForwardConfig": {"TargetGroups": [{"TargetGroupArn": arn}]}}],
            )
        return arn

    def register(self, image: str, version: str, mode: str = "", **more: Any) -> str:
        environment = {"VERSION": version, "MODE": mode, **more.pop("environment", {})}
        container = {
            "name": "model",
            "image": image,
            "portMappings": [{"containerPort": 3000}],
            "environment": [{"name": name, "value": value} for name, value in environment.items()],
            "stopTimeout": 5,
            "logConfiguration": {
                "logDriver": "awslogs",
                "options": {
                    "awslogs-group": "/models",
                    "awslogs-region": "us-east-1",
                    "awslogs-stream-prefix": "task",
                },
            },
            **more,
        }
        answer = self.ecs.register_task_definition(
            family=self.name,
            networkMode="awsvpc",
            requiresCompatibilities=["FARGATE"],
            cpu="256",
            memory="512",
            containerDefinitions=[container],
        )
        arn: str = answer["taskDefinition"]["taskDefinitionArn"]
        return arn

    def service_settings(self, task_definition: str, **changes: Any) -> dict[str, Any]:
        breaker = {"enable": True, "rollback": True, "thresholdConfiguration": {"type": "COUNT", "value": 2}}
        return {
            "cluster": self.name,
            "serviceName": self.name,
            "taskDefinition": task_definition,
            "desiredCount": 1,
            "launchType": "FARGATE",
            "loadBalancers": [{"targetGroupArn": self.group_arn, "containerName": "model", "containerPort": 3000}],
            "deploymentConfiguration": {
                "deploymentCircuitBreaker": breaker,
                "minimumHealthyPercent": 100,
                "maximumPercent": 200,
            },
            "healthCheckGracePeriodSeconds": 3,
            "networkConfiguration": {"awsvpcConfiguration": {"subnets": self.subnets}},
            **changes,
        }

    def create(self, task_definition: str, **changes: Any) -> dict[str, Any]:
        service: dict[str, Any] = self.ecs.create_service(**self.service_settings(task_definition, **changes))[
            "service"
        ]
        return service

    def update(self, **changes: Any) -> dict[str, Any]:
        service: dict[str, Any] = self.ecs.update_service(cluster=self.name, service=self.name, **changes)["service"]
        return service

    def service(self) -> dict[str, Any]:
        service: dict[str, Any] = self.ecs.describe_services(cluster=self.name, services=[self.name], include=["TAGS"])[
            "services"
        ][0]
        return service

    def deployment(self, service: dict[str, Any]) -> dict[str, Any]:
        """Returns the service deployment that the create or update started."""
        arn = service["currentServiceDeployment"]
        found: dict[str, Any] = self.ecs.describe_service_deployments(serviceDeploymentArns=[arn])[
            "serviceDeployments"
        ][0]
        return found

    def tasks(self, status: str = "RUNNING") -> list[dict[str, Any]]:
        arns = self.ecs.list_tasks(cluster=self.name, serviceName=self.name, desiredStatus=status)["taskArns"]
        found: list[dict[str, Any]] = self.ecs.describe_tasks(cluster=self.name, tasks=arns)["tasks"] if arns else []
        return found

    def target_states(self) -> list[str]:
        described = self.client("elbv2").describe_target_health(TargetGroupArn=self.group_arn)
        return [target["TargetHealth"]["State"] for target in described["TargetHealthDescriptions"]]

    def wait_until(self, service: dict[str, Any], *statuses: str) -> dict[str, Any]:
        wait_for(lambda: self.deployment(service)["status"] in statuses, f"{statuses}: {self.service()['events'][:5]}")
        return self.deployment(service)

    def status(self) -> ServiceSnapshot:
        return next(status for status in self.gateway.services() if status.name == self.name)

    def get(self, path: str) -> tuple[int, Any]:
        """Returns the service's response through the load balancer."""
        return self.get_root(f"/{self.name}{path}")

    def get_root(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"{self.balancer.url}{path}", timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def events(self) -> list[str]:
        return [event["message"] for event in self.service()["events"]]


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"did not happen in time: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("aws")


@pytest.fixture(scope="module")
def running(registry: LocalRegistry, folder: Path) -> Iterator[Aws]:
    with running_aws(folder, registry=registry) as local:
        aws = Aws(local)
        aws.prepare()
        yield aws
    assert processes_below(folder / "tasks") == []


@pytest.fixture
def aws(running: Aws, push_image: PushImage, numbers: Iterator[int]) -> Iterator[Aws]:
    running.begin_test(next(numbers))
    running.image = push_image()
    yield running
    for service in running.gateway.services():
        if service.cluster == running.name and service.status == "ACTIVE":
            running.ecs.delete_service(cluster=running.name, service=service.name, force=True)


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def live(aws: Aws) -> Aws:
    """Returns the same with version 1 of the service rolled out."""
    aws.wait_until(aws.create(aws.register(aws.image, "1")), "SUCCESSFUL")
    return aws


def processes_below(folder: Path) -> list[int]:
    """Returns the process IDs of tasks started in the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("MLFLOW_FARGATE_TASK", ""):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_created_service_runs_becomes_healthy_and_responds(aws: Aws) -> None:
    created = aws.create(aws.register(aws.image, "1"), tags=[{"key": "team", "value": "growth"}])
    deployment = aws.wait_until(created, "SUCCESSFUL")
    service = aws.service()

    assert service["deployments"][0]["id"] == created["deployments"][0]["id"]
    assert service["deployments"][0]["rolloutState"] == "COMPLETED"
    assert (service["runningCount"], service["pendingCount"]) == (1, 0)
    assert service["tags"] == [{"key": "team", "value": "growth"}]
    assert service["deploymentConfiguration"]["deploymentCircuitBreaker"]["thresholdConfiguration"]["value"] == 2
    assert deployment["deploymentCircuitBreaker"] == {
        "status": "MONITORING_COMPLETE",
        "failureCount": 0,
        "threshold": 2,
    }
    assert aws.target_states() == ["healthy"]
    assert aws.get("/invocations")[1]["version"] == "1"
    assert aws.get_root("/other/") == (404, "nothing here")
    wait_for(lambda: f"(service {aws.name}) has reached a steady state." in aws.events(), "steady")
    told = " | ".join(reversed(aws.events()))
    for said in ("has started 1 tasks: (task ", "registered 1 targets in (target-group ", ") deployment completed."):
        assert said in told


@pytest.mark.slow
def test_a_running_task_is_described_as_in_ecs(live: Aws) -> None:
    task = live.tasks()[0]
    details = {detail["name"]: detail["value"] for detail in task["attachments"][0]["details"]}
    target = live.client("elbv2").describe_target_health(TargetGroupArn=live.group_arn)
    revision = live.ecs.describe_service_revisions(
        serviceRevisionArns=[live.service()["currentServiceRevisions"][0]["arn"]]
    )["serviceRevisions"][0]

    assert (task["lastStatus"], task["desiredStatus"], task["launchType"]) == ("RUNNING", "RUNNING", "FARGATE")
    assert task["createdAt"] <= task["pullStartedAt"] <= task["startedAt"]
    assert details["privateIPv4Address"].startswith("172.31.")
    assert target["TargetHealthDescriptions"][0]["Target"] == {"Id": details["privateIPv4Address"], "Port": 3000}
    assert task["containers"][0]["imageDigest"] in task["containers"][0]["image"]
    assert revision["containerImages"][0]["imageDigest"] == task["containers"][0]["imageDigest"]
    cluster = live.ecs.describe_clusters(clusters=[live.name])["clusters"][0]
    assert (cluster["runningTasksCount"], cluster["activeServicesCount"]) == (1, 1)


@pytest.mark.slow
def test_an_update_loses_no_request(live: Aws) -> None:
    answers: Counter[tuple[int, str]] = Counter()
    is_over = threading.Event()

    def call() -> None:
        while not is_over.is_set():
            status, content = live.get("/invocations")
            answers[status, content["version"] if status == 200 else content] += 1

    caller = threading.Thread(target=call)
    caller.start()
    slow = live.register(live.image, "2", environment={"SLOWNESS": "0.3"})
    live.wait_until(live.update(taskDefinition=slow), "SUCCESSFUL")
    live.wait_until(live.update(taskDefinition=live.register(live.image, "3")), "SUCCESSFUL")
    time.sleep(0.5)
    is_over.set()
    caller.join()

    assert {status for status, _ in answers} == {200}
    assert {version for _, version in answers} == {"1", "2", "3"}
    assert [deployment["status"] for deployment in live.service()["deployments"]] == ["PRIMARY"]
    assert live.target_states() == ["healthy"]


@pytest.mark.slow
def test_crashing_tasks_trip_the_breaker_and_the_previous_version_stays(live: Aws) -> None:
    before = live.service()["deployments"][0]["id"]
    updated = live.update(taskDefinition=live.register(live.image, "2", "crash"))
    deployment = live.wait_until(updated, "ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED", "SUCCESSFUL")
    primary = live.service()["deployments"][0]

    assert deployment["status"] == "ROLLBACK_SUCCESSFUL"
    assert "circuit breaker threshold was exceeded" in deployment["statusReason"]
    assert deployment["deploymentCircuitBreaker"]["status"] == "TRIGGERED"
    assert primary["id"] == before != updated["deployments"][0]["id"]
    assert primary["taskDefinition"].endswith(f"{live.name}:1")
    assert live.get("/invocations")[1]["version"] == "1"
    stopped = live.tasks("STOPPED")
    assert {task["stopCode"] for task in stopped} == {"EssentialContainerExited"}
    assert {task["containers"][0]["exitCode"] for task in stopped} == {1}
    task_id = stopped[0]["taskArn"].rsplit("/", 1)[-1]
    logs = live.client("logs").filter_log_events(logGroupName="/models", logStreamNames=[f"task/model/{task_id}"])
    assert "boom: the model cannot be loaded" in [event["message"] for event in logs["events"]]
    assert any("deployment failed: tasks failed to start." in event for event in live.events())
    assert any("rolling back to deployment" in event for event in live.events())


@pytest.mark.slow
def test_a_model_that_never_becomes_ready_is_rolled_back(live: Aws) -> None:
    live.update(healthCheckGracePeriodSeconds=1)
    updated = live.update(taskDefinition=live.register(live.image, "2", "never"))
    live.wait_until(updated, "ROLLBACK_SUCCESSFUL")

    reasons = {task["stoppedReason"] for task in live.tasks("STOPPED")}
    assert reasons == {f"Task failed ELB health checks in (target-group {live.group_arn})"}
    assert any("Health checks failed with these codes: [503]" in event for event in live.events())


@pytest.mark.slow
def test_a_first_deployment_that_crashes_stays_failed(aws: Aws) -> None:
    created = aws.create(aws.register(aws.image, "1", "crash"))
    deployment = aws.wait_until(created, "ROLLBACK_FAILED")
    service = aws.service()

    assert service["deployments"][0]["rolloutState"] == "FAILED"
    assert service["deployments"][0]["rolloutStateReason"] == "ECS deployment circuit breaker: tasks failed to start."
    assert service["runningCount"] == 0
    assert deployment["deploymentCircuitBreaker"]["failureCount"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": "…/models@sha256:0"}, r"CannotPullContainerError: pull image manifest .*: not found"),
        (
            {"logConfiguration": {"logDriver": "awslogs", "options": {"awslogs-group": "/nowhere"}}},
            "ResourceInitializationError: failed to validate logger args: .*The specified log group does not exist",
        ),
        (
            {"secrets": [{"name": "K", "valueFrom": "arn:aws:secretsmanager:us-east-1:123456789012:secret:no-AbCdEf"}]},
            "ResourceInitializationError: unable to pull secrets or registry auth: .*"
            "ResourceNotFoundException: Secrets Manager can't find the specified secret",
        ),
    ],
)
def test_a_task_that_cannot_start_reports_the_reason(aws: Aws, change: dict[str, Any], reason: str) -> None:
    image = f"{aws.image[:-8]}00000000" if "image" in change else aws.image
    more = {key: value for key, value in change.items() if key != "image"}
    aws.create(aws.register(image, "1", **more))
    wait_for(lambda: bool(aws.tasks("STOPPED")), "a stopped task")
    task = aws.tasks("STOPPED")[0]

    assert task["stopCode"] == "TaskFailedToStart"
    assert re.match(reason, task["stoppedReason"]), task["stoppedReason"]


@pytest.mark.slow
def test_secrets_and_parameters_reach_the_task(aws: Aws) -> None:
    secret = aws.client("secretsmanager").create_secret(Name=aws.name, SecretString=json.dumps({"key": "hush"}))["ARN"]
    aws.client("ssm").put_parameter(Name="/churn/color", Value="blue", Type="SecureString")
    secrets = [
        {"name": "API_KEY", "valueFrom": f"{secret}:key::"},
        {"name": "COLOR", "valueFrom": "arn:aws:ssm:us-east-1:123456789012:parameter/churn/color"},
    ]
    aws.wait_until(aws.create(aws.register(aws.image, "1", secrets=secrets)), "SUCCESSFUL")

    answer = aws.get("/x")[1]
    assert (answer["key"], answer["environment"]["COLOR"]) == ("hush", "blue")


@pytest.mark.slow
def test_a_killed_task_is_replaced(live: Aws) -> None:
    before = live.status().tasks[0]
    assert before.pid is not None
    for process in psutil.Process(before.pid).children():
        process.kill()
    # A single call: between two calls, the killed task could disappear before its replacement exists.
    wait_for(lambda: any(not task["taskArn"].endswith(f"/{before.id}") for task in live.tasks()), "another task")
    wait_for(lambda: live.target_states() == ["healthy"], "healthy again")

    wait_for(lambda: live.get("/x")[0] == 200, "an answer")
    wait_for(lambda: live.tasks("STOPPED") != [], "the killed task among the stopped ones")
    assert live.tasks("STOPPED")[0]["containers"][0]["exitCode"] == 137
    wait_for(lambda: live.service()["deployments"][0]["rolloutState"] == "COMPLETED", "completed")


@pytest.mark.slow
def test_a_deleted_service_drains_and_its_processes_end(live: Aws) -> None:
    pid = live.status().tasks[0].pid
    with pytest.raises(ClientError, match="The service cannot be stopped while it is scaled above 0"):
        live.ecs.delete_service(cluster=live.name, service=live.name)
    deleted = live.ecs.delete_service(cluster=live.name, service=live.name, force=True)["service"]
    with pytest.raises(ClientError, match="Unable to Start a service that is still Draining"):
        live.create(live.register(live.image, "2"))
    listed = live.ecs.list_services(cluster=live.name)["serviceArns"]
    wait_for(lambda: live.service()["status"] == "INACTIVE", "INACTIVE")

    assert deleted["status"] == "DRAINING"
    assert listed == []
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert live.get("/x")[0] == 503
    live.ecs.delete_cluster(cluster=live.name)


@pytest.mark.slow
def test_a_deployment_can_be_stopped_and_rolled_back(live: Aws) -> None:
    live.update(healthCheckGracePeriodSeconds=600)
    updated = live.update(taskDefinition=live.register(live.image, "2", "never"))
    wait_for(lambda: len(live.tasks()) == 2, "the new task")
    live.ecs.stop_service_deployment(serviceDeploymentArn=updated["currentServiceDeployment"], stopType="ROLLBACK")
    deployment = live.wait_until(updated, "ROLLBACK_SUCCESSFUL")

    assert deployment["rollback"]["serviceRevisionArn"] in [
        source["arn"] for source in deployment["sourceServiceRevisions"]
    ]
    assert live.get("/x")[1]["version"] == "1"
    statuses = [
        brief["status"]
        for brief in live.ecs.list_service_deployments(cluster=live.name, service=live.name)["serviceDeployments"]
    ]
    assert statuses == ["ROLLBACK_SUCCESSFUL", "SUCCESSFUL"]


@pytest.mark.slow
def test_scaling_changes_the_number_of_tasks_without_a_deployment(live: Aws) -> None:
    before = live.service()["currentServiceDeployment"]
    live.update(desiredCount=2)
    wait_for(lambda: live.target_states() == ["healthy", "healthy"], "two")
    ips = {task["attachments"][0]["details"][4]["value"] for task in live.tasks()}
    live.update(desiredCount=0)
    wait_for(lambda: not live.tasks() and live.service()["runningCount"] == 0, "none")

    assert len(ips) == 2
    assert live.service()["currentServiceDeployment"] == before
    live.ecs.delete_service(cluster=live.name, service=live.name)


@pytest.mark.slow
def test_a_task_definition_shows_when_and_by_whom_it_was_registered(aws: Aws) -> None:
    arn = aws.register("x", "1")

    described = aws.ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]

    assert abs(described["registeredAt"] - datetime.now(timezone.utc)) < timedelta(minutes=5)
    assert described["registeredBy"] == aws.client("sts").get_caller_identity()["Arn"]


# Refusals


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    said = caught.value.response["Error"]
    return f"{said['Code']}: {said['Message']}"


@pytest.mark.slow
def test_create_service_refuses_what_ecs_refuses(aws: Aws) -> None:
    good = aws.register(f"{aws.url}/x", "1")
    other_group = aws.make_target_group("lonely", priority=None)
    inactive = aws.register("x", "2")
    aws.ecs.deregister_task_definition(taskDefinition=inactive)
    load_balancer = {"targetGroupArn": aws.group_arn, "containerName": "model", "containerPort": 3000}

    def create(task_definition: str = good, **changes: Any) -> str:
        return refused(lambda: aws.create(task_definition, **changes))

    assert create(cluster="nowhere") == "ClusterNotFoundException: Cluster not found."
    assert create("nothing:1") == "ClientException: TaskDefinition not found."
    assert create(inactive) == "ClientException: TaskDefinition is inactive"
    assert create(networkConfiguration={}).endswith(
        "Network Configuration must be provided when networkMode 'awsvpc' is specified."
    )
    assert "The subnet ID 'subnet-0' does not exist (ErrorCode: InvalidSubnetID.NotFound)" in create(
        networkConfiguration={"awsvpcConfiguration": {"subnets": ["subnet-0"]}}
    )
    assert create(loadBalancers=[{**load_balancer, "containerName": "web"}]).endswith(
        "The container web does not exist in the task definition."
    )
    assert create(loadBalancers=[{**load_balancer, "containerPort": 80}]).endswith(
        "The container model did not have a container port 80 defined."
    )
    assert create(loadBalancers=[{**load_balancer, "targetGroupArn": other_group}]) == (
        f"InvalidParameterException: The target group with targetGroupArn {other_group} does not have an associated "
        "load balancer."
    )
    assert create(loadBalancers=[{**load_balancer, "targetGroupArn": aws.group_arn + "0"}]).endswith("does not exist.")
    assert "advancedConfiguration field is required" in create(deploymentConfiguration={"strategy": "BLUE_GREEN"})
    aws.create(good, desiredCount=0)
    assert create() == "InvalidParameterException: Creation of service was not idempotent."
    assert refused(lambda: aws.ecs.delete_cluster(cluster=aws.name)).startswith("ClusterContainsServicesException")


@pytest.mark.slow
def test_missing_resources_are_reported_as_in_ecs(aws: Aws) -> None:
    ecs = aws.ecs
    missing = ecs.describe_services(cluster=aws.name, services=["nobody"])

    assert missing["services"] == []
    assert missing["failures"][0]["reason"] == "MISSING"
    assert refused(lambda: ecs.update_service(cluster=aws.name, service="nobody")) == (
        "ServiceNotFoundException: Service not found."
    )
    assert refused(lambda: ecs.list_tasks(cluster=aws.name, serviceName="nobody")).startswith("ServiceNotFound")
    assert refused(lambda: ecs.stop_task(cluster=aws.name, task="0")).endswith("The referenced task was not found.")
    assert refused(lambda: ecs.run_task(cluster=aws.name, taskDefinition="x")).startswith("UnsupportedFeature")
    assert refused(ecs.submit_task_state_change).startswith("UnknownOperationException")


@pytest.mark.slow
def test_a_cluster_created_again_keeps_its_tags(aws: Aws) -> None:
    aws.ecs.create_cluster(clusterName="other", tags=[{"key": "managed-by", "value": "us"}])
    again = aws.ecs.create_cluster(clusterName="other")["cluster"]

    assert again["status"] == "ACTIVE"
    described = aws.ecs.describe_clusters(clusters=["other"], include=["TAGS"])["clusters"][0]
    assert described["tags"] == [{"key": "managed-by", "value": "us"}]


@pytest.mark.slow
def test_services_are_tagged_paginated_and_visible_to_other_aws_services(aws: Aws) -> None:
    definition = aws.register("x", "1")
    arns = [aws.create(definition, serviceName=f"s{i}", desiredCount=0)["serviceArn"] for i in range(3)]
    aws.ecs.tag_resource(resourceArn=arns[0], tags=[{"key": "a", "value": "1"}, {"key": "b", "value": "2"}])
    aws.ecs.untag_resource(resourceArn=arns[0], tagKeys=["a"])
    pages = list(aws.ecs.get_paginator("list_services").paginate(cluster=aws.name, PaginationConfig={"PageSize": 2}))
    tagging = aws.client("resourcegroupstaggingapi").get_resources(TagFilters=[{"Key": "b", "Values": ["2"]}])
    aws.client("application-autoscaling").register_scalable_target(
        ServiceNamespace="ecs",
        ResourceId=f"service/{aws.name}/s1",
        ScalableDimension="ecs:service:DesiredCount",
        MinCapacity=1,
        MaxCapacity=2,
    )

    assert aws.ecs.list_tags_for_resource(resourceArn=arns[0])["tags"] == [{"key": "b", "value": "2"}]
    assert [len(page["serviceArns"]) for page in pages] == [2, 1]
    assert [found["ResourceARN"] for found in tagging["ResourceTagMappingList"]] == [arns[0]]


# ECR, load balancing, S3


@pytest.mark.slow
def test_ecr_shows_the_images_in_the_registry(aws: Aws, push_image: PushImage, registry: LocalRegistry) -> None:
    ecr = aws.client("ecr")
    made = ecr.create_repository(repositoryName="models/churn", imageTagMutability="IMMUTABLE")["repository"]
    image = push_image(repository="models/churn")
    digest = image.rsplit("@", 1)[1]
    described = ecr.describe_images(repositoryName="models/churn")["imageDetails"][0]
    got = ecr.batch_get_image(repositoryName="models/churn", imageIds=[{"imageTag": "latest"}, {"imageTag": "no"}])

    assert made["repositoryUri"] == f"{registry.address}/models/churn"
    assert (described["imageDigest"], described["imageTags"]) == (digest, ["latest"])
    assert described["imagePushedAt"] > datetime.now(timezone.utc) - timedelta(minutes=1)
    assert got["images"][0]["imageId"] == {"imageDigest": digest, "imageTag": "latest"}
    assert got["failures"][0]["failureCode"] == "ImageNotFound"
    assert refused(
        lambda: ecr.put_image(
            repositoryName="models/churn", imageManifest=got["images"][0]["imageManifest"], imageTag="latest"
        )
    ).startswith("ImageAlreadyExistsException")
    ecr.put_image(repositoryName="models/churn", imageManifest=got["images"][0]["imageManifest"], imageTag="v1")
    assert {entry["imageTag"] for entry in ecr.list_images(repositoryName="models/churn")["imageIds"]} == {
        "latest",
        "v1",
    }
    assert refused(
        lambda: ecr.describe_images(repositoryName="models/churn", imageIds=[{"imageTag": "no"}])
    ).startswith("ImageNotFoundException")
    assert refused(lambda: ecr.delete_repository(repositoryName="models/churn")).startswith("RepositoryNotEmpty")
    ecr.batch_delete_image(repositoryName="models/churn", imageIds=[{"imageDigest": digest}])
    assert ecr.describe_images(repositoryName="models/churn")["imageDetails"] == []
    ecr.delete_repository(repositoryName="models/churn", force=True)
    assert not registry.store.repository_exists("models/churn")
    assert refused(lambda: ecr.describe_images(repositoryName="models/churn")).startswith("RepositoryNotFound")


@pytest.mark.slow
def test_ecr_tokens_stay_valid_and_contain_the_registry_address(aws: Aws, registry: LocalRegistry) -> None:
    token = aws.client("ecr").get_authorization_token()["authorizationData"][0]

    assert token["proxyEndpoint"] == f"http://{registry.address}"
    assert token["expiresAt"] > datetime.now(timezone.utc) + timedelta(hours=11)


@pytest.mark.slow
def test_load_balancers_have_the_local_address_and_unique_names(aws: Aws) -> None:
    elb = aws.client("elbv2")
    again = elb.create_load_balancer(Name="front-door", Subnets=aws.subnets)["LoadBalancers"][0]

    assert again["LoadBalancerArn"] == aws.load_balancer["LoadBalancerArn"]
    assert again["DNSName"] == f"127.0.0.1:{aws.balancer.port}"
    assert len(elb.describe_load_balancers()["LoadBalancers"]) == 1
    assert refused(
        lambda: elb.create_load_balancer(Name="front-door", Subnets=aws.subnets, Scheme="internal")
    ).startswith("DuplicateLoadBalancerName")
    assert refused(
        lambda: elb.create_listener(
            LoadBalancerArn=again["LoadBalancerArn"], Port=80, Protocol="HTTP", DefaultActions=[]
        )
    ).startswith("DuplicateListener")
    group = elb.describe_target_groups(Names=[aws.name])["TargetGroups"][0]
    same = {key: group[key] for key in ("Protocol", "Port", "VpcId", "TargetType", "HealthCheckPath")}
    assert elb.create_target_group(Name=aws.name, **same)["TargetGroups"][0]["TargetGroupArn"] == aws.group_arn
    assert refused(lambda: elb.create_target_group(Name=aws.name, **{**same, "Port": 1})).startswith("DuplicateTarget")


@pytest.mark.slow
def test_objects_are_stored_on_disk(aws: Aws, folder: Path) -> None:
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="models")
    s3.put_object(Bucket="models", Key="a/b", Body=b"content")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "models", "Key": "a/b"})

    assert s3.get_object(Bucket="models", Key="a/b")["Body"].read() == b"content"
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"content"
    assert any((folder / "s3" / "data").rglob("*"))


@pytest.mark.slow
def test_the_default_vpc_has_an_internet_route(aws: Aws) -> None:
    routes = [route for table in aws.client("ec2").describe_route_tables()["RouteTables"] for route in table["Routes"]]

    assert any(
        route.get("DestinationCidrBlock") == "0.0.0.0/0" and route.get("GatewayId", "").startswith("igw-")
        for route in routes
    )

"""The engine with tasks that are only played: what it asks of them, when, and what it tells the load balancer."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlflow_fargate.local.api.gateway import Gateway
from mlflow_fargate.local.container.image_store import PulledImage
from mlflow_fargate.local.container.launch import ContainerSpec
from mlflow_fargate.local.container.runner import StartedTask
from mlflow_fargate.local.load_balancer.rules import RoutingRule
from mlflow_fargate.local.load_balancer.server import LoadBalancer
from mlflow_fargate.local.moto_client import MotoClient
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.local.signature import Keys
from support.local_aws import running_aws

pytestmark = pytest.mark.slow  # moto's first calls take seconds


class PlayedTask:
    """A task that is a port answering `status`; it ends when told to, or when it is killed if it is `stubborn`."""

    pid = 1

    def __init__(self, runner: PlayedRunner) -> None:
        self.runner = runner
        self.asked: list[tuple[str, float]] = []
        self.code: int | None = None
        self.is_stubborn = False
        self._ended = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(runner))
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def host_port(self) -> int:
        return self.server.server_port

    def end(self, code: int) -> None:
        self.code = code
        self.server.shutdown()
        self.server.server_close()
        self._ended.set()

    def wait(self, timeout_seconds: float) -> int | None:
        self._ended.wait(timeout_seconds)
        return self.code

    def terminate(self) -> None:
        self.asked.append(("terminate", time.monotonic()))
        if not self.is_stubborn:
            self.end(0)

    def kill(self) -> int:
        self.asked.append(("kill", time.monotonic()))
        if self.code is None:
            self.end(137)
        return 137


class PlayedRunner:
    def __init__(self) -> None:
        self.status = 200
        self.bug: Exception | None = None
        self.tasks: list[PlayedTask] = []

    def pull(self, image: str) -> PulledImage:
        if self.bug:
            raise self.bug
        return PulledImage("sha256:0", Path(), (), (), (), "/")

    def start(self, spec: ContainerSpec, on_line: Callable[[str], None]) -> StartedTask:
        self.tasks.append(PlayedTask(self))
        return self.tasks[-1]


class RecordedRoutes(LoadBalancer):
    """Remembers when which ports got requests."""

    def __init__(self) -> None:
        super().__init__()
        self.pattern = ""
        self.ports: list[tuple[float, set[int]]] = []

    def set_routes(self, rules: Iterable[RoutingRule], default: RoutingRule | None = None) -> None:
        groups = [group for rule in rules if self.pattern in rule.path_patterns for group in rule.targets]
        self.ports.append((time.monotonic(), {port for group in groups for _, port in group.targets}))

    @property
    def current(self) -> set[int]:
        return self.ports[-1][1] if self.ports else set()


def make_handler(runner: PlayedRunner) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(runner.status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    return Handler


class Played:
    """A gateway whose tasks are played; `begin_test` gives each test a cluster and a target group of its own."""

    def __init__(self, gateway: Gateway, runner: PlayedRunner, routes: RecordedRoutes) -> None:
        self.cluster = ""
        self.runner = runner
        self.routes = routes
        self.gateway = gateway
        self.aws = MotoClient(gateway, "us-east-1")
        self.subnets = [subnet["SubnetId"] for subnet in self.aws.client("ec2").describe_subnets()["Subnets"][:2]]
        self.vpc = self.aws.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
        elb = self.aws.client("elbv2")
        load_balancer = elb.create_load_balancer(Name="lb", Subnets=self.subnets)["LoadBalancers"][0]
        self.listener_arn = elb.create_listener(
            LoadBalancerArn=load_balancer["LoadBalancerArn"],
            Port=80,
            Protocol="HTTP",
            DefaultActions=[{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "404"}}],
        )["Listeners"][0]["ListenerArn"]

    def begin_test(self, number: int) -> None:
        self.cluster = f"c{number}"
        self.runner.tasks, self.runner.status, self.runner.bug = [], 200, None
        self.routes.pattern, self.routes.ports = f"/{self.cluster}/*", []
        elb = self.aws.client("elbv2")
        self.aws.client("ecs").create_cluster(clusterName=self.cluster)
        self.group_arn = elb.create_target_group(
            Name=self.cluster, Protocol="HTTP", Port=3000, VpcId=self.vpc, TargetType="ip", HealthCheckIntervalSeconds=5
        )["TargetGroups"][0]["TargetGroupArn"]
        elb.create_rule(
            ListenerArn=self.listener_arn,
            Priority=number,
            Conditions=[{"Field": "path-pattern", "Values": [self.routes.pattern]}],
            Actions=[{"Type": "forward", "TargetGroupArn": self.group_arn}],
        )
        self.set_deregistration_delay(0)

    def end_test(self) -> None:
        ecs = self.aws.client("ecs")
        if ecs.list_services(cluster=self.cluster)["serviceArns"]:
            ecs.delete_service(cluster=self.cluster, service="churn", force=True)
        for task in self.runner.tasks:
            task.is_stubborn = False

    def set_deregistration_delay(self, seconds: int) -> None:
        self.aws.client("elbv2").modify_target_group_attributes(
            TargetGroupArn=self.group_arn,
            Attributes=[{"Key": "deregistration_delay.timeout_seconds", "Value": str(seconds)}],
        )

    def create(self, *, stop_timeout: int = 1, **changes: Any) -> None:
        container = {
            "name": "model",
            "image": "x",
            "portMappings": [{"containerPort": 3000}],
            "stopTimeout": stop_timeout,
        }
        definition = self.aws.client("ecs").register_task_definition(
            family="churn", networkMode="awsvpc", cpu="256", memory="512", containerDefinitions=[container]
        )
        self.aws.client("ecs").create_service(
            cluster=self.cluster,
            serviceName="churn",
            taskDefinition=definition["taskDefinition"]["taskDefinitionArn"],
            loadBalancers=[{"targetGroupArn": self.group_arn, "containerName": "model", "containerPort": 3000}],
            networkConfiguration={"awsvpcConfiguration": {"subnets": self.subnets}},
            **{"desiredCount": 1, **changes},
        )

    def service(self) -> dict[str, Any]:
        found: dict[str, Any] = self.aws.client("ecs").describe_services(cluster=self.cluster, services=["churn"])[
            "services"
        ][0]
        return found

    def wait_until_completed(self) -> None:
        wait_for(lambda: self.service()["deployments"][0]["rolloutState"] == "COMPLETED")


@pytest.fixture(scope="module")
def gateway(registry: LocalRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    runner, routes = PlayedRunner(), RecordedRoutes()
    folder = tmp_path_factory.mktemp("aws")
    keys = Keys("engine", "engine")
    with running_aws(folder, keys=keys, registry=registry, load_balancer=routes, runner=runner) as aws:
        yield Played(aws.gateway, runner, routes)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith(("task-", "ecs-engine"))] == []


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def played(gateway: Played, numbers: Iterator[int]) -> Iterator[Played]:
    gateway.begin_test(next(numbers))
    yield gateway
    gateway.end_test()


def wait_for(condition: Callable[[], bool], seconds: float = 15) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to that in time"
        time.sleep(0.02)


def test_requests_go_to_a_task_only_while_it_is_healthy_and_not_draining(played: Played) -> None:
    played.create()
    played.wait_until_completed()
    task = played.runner.tasks[0]
    assert played.routes.current == {task.host_port}

    played.aws.client("ecs").update_service(cluster=played.cluster, service="churn", desiredCount=0)
    wait_for(lambda: bool(task.asked))

    (told, at), *_ = task.asked
    last_routed = max(when for when, ports in played.routes.ports if not ports)
    assert told == "terminate"
    assert last_routed <= at


def test_a_task_drains_for_the_deregistration_delay_before_it_is_terminated(played: Played) -> None:
    played.set_deregistration_delay(1)
    played.create()
    played.wait_until_completed()
    began = time.monotonic()
    played.aws.client("ecs").update_service(cluster=played.cluster, service="churn", desiredCount=0)
    wait_for(lambda: played.routes.current == set())
    health = played.aws.client("elbv2").describe_target_health(TargetGroupArn=played.group_arn)
    wait_for(lambda: bool(played.runner.tasks[0].asked))

    assert health["TargetHealthDescriptions"][0]["TargetHealth"]["State"] == "draining"
    assert health["TargetHealthDescriptions"][0]["TargetHealth"]["Reason"] == "Target.DeregistrationInProgress"
    assert played.runner.tasks[0].asked[0][1] - began >= 1


def test_a_task_that_ignores_sigterm_is_killed_after_its_stop_timeout(played: Played) -> None:
    played.create(stop_timeout=1)
    played.wait_until_completed()
    task = played.runner.tasks[0]
    task.is_stubborn = True

    played.aws.client("ecs").update_service(cluster=played.cluster, service="churn", desiredCount=0)
    wait_for(lambda: task.code is not None)

    (_, terminated), (killed, at) = task.asked
    assert killed == "kill"
    assert at - terminated >= 1


def test_a_task_stopped_by_hand_is_replaced_and_is_no_failure(played: Played) -> None:
    played.create()
    played.wait_until_completed()
    ecs = played.aws.client("ecs")
    arn = ecs.list_tasks(cluster=played.cluster)["taskArns"][0]

    ecs.stop_task(cluster=played.cluster, task=arn, reason="curiosity")
    wait_for(lambda: len(played.runner.tasks) == 2)

    stopped = ecs.describe_tasks(cluster=played.cluster, tasks=[arn])["tasks"][0]
    assert (stopped["stoppedReason"], stopped["stopCode"]) == ("curiosity", "UserInitiated")
    assert played.service()["deployments"][0]["failedTasks"] == 0


def test_without_a_breaker_a_crashing_service_is_tried_again_and_again(played: Played) -> None:
    played.runner.status = 503
    played.create()
    for number in range(3):
        wait_for(lambda count=number + 1: len(played.runner.tasks) == count)  # type: ignore[misc]
        played.runner.tasks[number].end(1)
    wait_for(lambda: played.service()["deployments"][0]["failedTasks"] == 3)

    events = [event["message"] for event in played.service()["events"]]
    assert "(service churn) is unable to consistently start tasks successfully." in events
    assert played.service()["deployments"][0]["rolloutState"] == "IN_PROGRESS"


def test_within_its_grace_period_a_task_may_be_unhealthy(played: Played) -> None:
    played.runner.status = 503
    played.create(healthCheckGracePeriodSeconds=600)
    elb = played.aws.client("elbv2")

    def state() -> str | None:
        described = elb.describe_target_health(TargetGroupArn=played.group_arn)["TargetHealthDescriptions"]
        return described[0]["TargetHealth"]["State"] if described else None

    wait_for(lambda: state() == "unhealthy")
    time.sleep(0.7)
    assert len(played.runner.tasks) == 1
    assert played.runner.tasks[0].asked == []
    # With nothing healthy an ALB sends requests to unhealthy targets rather than nowhere.
    assert played.routes.current == {played.runner.tasks[0].host_port}


def test_an_unknown_target_is_unused(played: Played) -> None:
    played.create()
    played.wait_until_completed()
    described = played.aws.client("elbv2").describe_target_health(
        TargetGroupArn=played.group_arn, Targets=[{"Id": "10.0.0.1", "Port": 3000}]
    )["TargetHealthDescriptions"]

    assert [target["TargetHealth"]["Reason"] for target in described] == ["Target.NotRegistered"]


def test_a_snapshot_tells_processes_and_rollouts(played: Played) -> None:
    played.create()
    played.wait_until_completed()
    status = next(status for status in played.gateway.services() if status.cluster == played.cluster)

    assert (status.name, status.desired_count, status.running_count) == ("churn", 1, 1)
    assert [(task.status, task.health, task.port) for task in status.tasks] == [
        ("RUNNING", "healthy", played.runner.tasks[0].host_port)
    ]
    assert [(rollout.status, rollout.state) for rollout in status.rollouts] == [("PRIMARY", "COMPLETED")]


def test_a_task_that_a_bug_of_ours_keeps_from_starting_is_stopped_and_says_why(played: Played) -> None:
    ecs = played.aws.client("ecs")
    played.runner.bug = TypeError("it was never tried with this Python")
    played.create()
    wait_for(lambda: bool(ecs.list_tasks(cluster=played.cluster, desiredStatus="STOPPED")["taskArns"]))

    arns = ecs.list_tasks(cluster=played.cluster, desiredStatus="STOPPED")["taskArns"]
    task = ecs.describe_tasks(cluster=played.cluster, tasks=arns[:1])["tasks"][0]
    assert task["stopCode"] == "TaskFailedToStart"
    assert "it was never tried with this Python" in task["stoppedReason"]


# The last one, as it stops what the others use.


def test_stopping_the_engine_is_quick_whatever_tasks_wait_for(played: Played) -> None:
    played.set_deregistration_delay(300)
    played.create(stop_timeout=120)
    played.wait_until_completed()
    played.runner.tasks[0].is_stubborn = True
    began = time.monotonic()

    played.gateway.stop()

    assert time.monotonic() - began < 6
    assert played.runner.tasks[0].code == 137

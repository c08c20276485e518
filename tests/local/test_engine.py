"""The engine with fake tasks: what it requests of them, when, and which routes it gives the load balancer."""

from __future__ import annotations

import itertools
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from mlflow_fargate.local.api.gateway import Gateway
from mlflow_fargate.local.container.image_store import PulledImage
from mlflow_fargate.local.container.launch import ContainerSpec, ExecSpec
from mlflow_fargate.local.container.task_runner import StartedTask
from mlflow_fargate.local.load_balancer.rules import RoutingRule
from mlflow_fargate.local.load_balancer.server import LoadBalancer
from mlflow_fargate.local.moto_client import MotoClient
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.local.signature import Keys
from support.local_aws import running_aws

pytestmark = pytest.mark.slow  # moto's first calls take seconds


class FakeTask:
    """A task that only responds with `status` on a port; it ends on SIGTERM or, if `stubborn`, only when killed."""

    pid = 1
    reason: str | None = None

    def __init__(self, runner: FakeRunner) -> None:
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


class FakeRunner:
    runs_all_containers = True

    def __init__(self) -> None:
        self.status = 200
        self.bug: Exception | None = None
        self.released: list[str] = []
        self.tasks: list[FakeTask] = []

    def pull(self, image: str) -> PulledImage:
        if self.bug:
            raise self.bug
        return PulledImage("sha256:0", Path(), (), (), (), "/")

    def start(self, spec: ContainerSpec, on_line: Callable[[str], None]) -> StartedTask:
        self.tasks.append(FakeTask(self))
        return self.tasks[-1]

    def release(self, task_id: str) -> None:
        self.released.append(task_id)

    def exec_spec(self, task_id: str, container: str, command: str, *, as_root: bool = True) -> ExecSpec:
        return ExecSpec(tuple(shlex.split(command)), {"PATH": os.environ["PATH"]}, Path("/"), 1)


class RecordedRoutes(LoadBalancer):
    """Records when each port was a target."""

    def __init__(self) -> None:
        super().__init__()
        self.pattern = ""
        self.ports: list[tuple[float, set[int]]] = []
        self.idle_timeouts: set[float | None] = set()

    def set_routes(self, rules: Iterable[RoutingRule], default: RoutingRule | None = None) -> None:
        ours = [rule for rule in rules if self.pattern in rule.path_patterns]
        self.idle_timeouts = {rule.idle_timeout_seconds for rule in ours}
        groups = [group for rule in ours for group in rule.targets]
        self.ports.append((time.monotonic(), {port for group in groups for _, port in group.targets}))

    @property
    def current(self) -> set[int]:
        return self.ports[-1][1] if self.ports else set()


def make_handler(runner: FakeRunner) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(runner.status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    return Handler


class FakeGateway:
    """A gateway with fake tasks; `begin_test` creates a cluster and a target group for each test."""

    def __init__(self, gateway: Gateway, runner: FakeRunner, routes: RecordedRoutes) -> None:
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

    def create(
        self,
        *others: dict[str, Any],
        stop_timeout: int = 1,
        check: str | None = None,
        model: Mapping[str, Any] = MappingProxyType({}),
        **changes: Any,
    ) -> None:
        container: dict[str, Any] = {
            "name": "model",
            "image": "x",
            "portMappings": [{"containerPort": 3000}],
            "stopTimeout": stop_timeout,
            **model,
        }
        if check is not None:
            container["healthCheck"] = {"command": ["CMD-SHELL", check], "interval": 1, "retries": 1}
        definition = self.aws.client("ecs").register_task_definition(
            family="churn", networkMode="awsvpc", cpu="256", memory="512", containerDefinitions=[container, *others]
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

    def describe_tasks(self, *arns: str) -> list[dict[str, Any]]:
        """Returns these tasks, or those that the service wants."""
        ecs = self.aws.client("ecs")
        names = arns or ecs.list_tasks(cluster=self.cluster, serviceName="churn")["taskArns"]
        found: list[dict[str, Any]] = ecs.describe_tasks(cluster=self.cluster, tasks=list(names))["tasks"]
        return found

    def wait_until_completed(self) -> None:
        wait_for(lambda: self.service()["deployments"][0]["rolloutState"] == "COMPLETED")


@pytest.fixture(scope="module")
def gateway(registry: LocalRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGateway]:
    runner, routes = FakeRunner(), RecordedRoutes()
    folder = tmp_path_factory.mktemp("aws")
    keys = Keys("engine", "engine")
    with running_aws(folder, keys=keys, registry=registry, load_balancer=routes, runner=runner) as aws:
        yield FakeGateway(aws.gateway, runner, routes)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith(("task-", "ecs-engine"))] == []


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def fake(gateway: FakeGateway, numbers: Iterator[int]) -> Iterator[FakeGateway]:
    gateway.begin_test(next(numbers))
    yield gateway
    gateway.end_test()


def wait_for(condition: Callable[[], bool], seconds: float = 15) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the expected state was not reached in time"
        time.sleep(0.02)


def test_requests_go_to_a_task_only_while_it_is_healthy_and_not_draining(fake: FakeGateway) -> None:
    fake.create()
    fake.wait_until_completed()
    task = fake.runner.tasks[0]
    assert fake.routes.current == {task.host_port}

    fake.aws.client("ecs").update_service(cluster=fake.cluster, service="churn", desiredCount=0)
    wait_for(lambda: bool(task.asked))

    (told, at), *_ = task.asked
    last_routed = max(when for when, ports in fake.routes.ports if not ports)
    assert told == "terminate"
    assert last_routed <= at


def test_a_task_drains_for_the_deregistration_delay_before_sigterm(fake: FakeGateway) -> None:
    fake.set_deregistration_delay(1)
    fake.create()
    fake.wait_until_completed()
    began = time.monotonic()
    fake.aws.client("ecs").update_service(cluster=fake.cluster, service="churn", desiredCount=0)
    wait_for(lambda: fake.routes.current == set())
    health = fake.aws.client("elbv2").describe_target_health(TargetGroupArn=fake.group_arn)
    wait_for(lambda: bool(fake.runner.tasks[0].asked))

    assert health["TargetHealthDescriptions"][0]["TargetHealth"]["State"] == "draining"
    assert health["TargetHealthDescriptions"][0]["TargetHealth"]["Reason"] == "Target.DeregistrationInProgress"
    assert fake.runner.tasks[0].asked[0][1] - began >= 1


def test_a_task_that_ignores_sigterm_is_killed_after_its_stop_timeout(fake: FakeGateway) -> None:
    fake.create(stop_timeout=1)
    fake.wait_until_completed()
    task = fake.runner.tasks[0]
    task.is_stubborn = True

    fake.aws.client("ecs").update_service(cluster=fake.cluster, service="churn", desiredCount=0)
    wait_for(lambda: task.code is not None)

    (_, terminated), (killed, at) = task.asked
    assert killed == "kill"
    assert at - terminated >= 1


def test_a_task_stopped_by_a_user_is_replaced_and_does_not_count_as_failed(fake: FakeGateway) -> None:
    fake.create()
    fake.wait_until_completed()
    ecs = fake.aws.client("ecs")
    arn = ecs.list_tasks(cluster=fake.cluster)["taskArns"][0]

    ecs.stop_task(cluster=fake.cluster, task=arn, reason="curiosity")
    wait_for(lambda: len(fake.runner.tasks) == 2)

    stopped = ecs.describe_tasks(cluster=fake.cluster, tasks=[arn])["tasks"][0]
    assert (stopped["stoppedReason"], stopped["stopCode"]) == ("curiosity", "UserInitiated")
    assert fake.service()["deployments"][0]["failedTasks"] == 0


def test_without_a_breaker_a_crashing_service_is_restarted_indefinitely(fake: FakeGateway) -> None:
    fake.runner.status = 503
    fake.create()
    for number in range(3):
        wait_for(lambda count=number + 1: len(fake.runner.tasks) == count)  # type: ignore[misc]
        fake.runner.tasks[number].end(1)
    wait_for(lambda: fake.service()["deployments"][0]["failedTasks"] == 3)

    events = [event["message"] for event in fake.service()["events"]]
    assert "(service churn) is unable to consistently start tasks successfully." in events
    assert fake.service()["deployments"][0]["rolloutState"] == "IN_PROGRESS"


def test_a_task_that_ends_by_itself_shows_why_its_container_ended(fake: FakeGateway) -> None:
    fake.create()
    fake.wait_until_completed()
    ecs = fake.aws.client("ecs")
    arn = ecs.list_tasks(cluster=fake.cluster)["taskArns"][0]

    fake.runner.tasks[0].reason = "OutOfMemoryError: Container killed due to memory usage"
    fake.runner.tasks[0].end(137)
    wait_for(lambda: len(fake.runner.tasks) == 2)

    stopped = ecs.describe_tasks(cluster=fake.cluster, tasks=[arn])["tasks"][0]
    assert stopped["stoppedReason"] == "Essential container in task exited"
    assert (stopped["containers"][0]["exitCode"], stopped["containers"][0]["reason"]) == (
        137,
        "OutOfMemoryError: Container killed due to memory usage",
    )


def test_an_unhealthy_task_keeps_running_within_its_grace_period(fake: FakeGateway) -> None:
    fake.runner.status = 503
    fake.create(healthCheckGracePeriodSeconds=600)
    elb = fake.aws.client("elbv2")

    def state() -> str | None:
        described = elb.describe_target_health(TargetGroupArn=fake.group_arn)["TargetHealthDescriptions"]
        return described[0]["TargetHealth"]["State"] if described else None

    wait_for(lambda: state() == "unhealthy")
    time.sleep(0.7)
    assert len(fake.runner.tasks) == 1
    assert fake.runner.tasks[0].asked == []
    # Without healthy targets an ALB sends requests to unhealthy ones.
    assert fake.routes.current == {fake.runner.tasks[0].host_port}


def test_the_idle_timeout_of_a_load_balancer_applies_to_its_rules(fake: FakeGateway) -> None:
    elb = fake.aws.client("elbv2")
    arn = elb.describe_load_balancers()["LoadBalancers"][0]["LoadBalancerArn"]
    fake.create()

    for seconds in ("300", "60"):
        attribute = {"Key": "idle_timeout.timeout_seconds", "Value": seconds}
        elb.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=[attribute])

        wait_for(lambda seconds=seconds: fake.routes.idle_timeouts == {float(seconds)})  # type: ignore[misc]


def test_an_unknown_target_is_unused(fake: FakeGateway) -> None:
    fake.create()
    fake.wait_until_completed()
    described = fake.aws.client("elbv2").describe_target_health(
        TargetGroupArn=fake.group_arn, Targets=[{"Id": "10.0.0.1", "Port": 3000}]
    )["TargetHealthDescriptions"]

    assert [target["TargetHealth"]["Reason"] for target in described] == ["Target.NotRegistered"]


def test_a_snapshot_contains_processes_and_rollouts(fake: FakeGateway) -> None:
    fake.create()
    fake.wait_until_completed()
    status = next(status for status in fake.gateway.services() if status.cluster == fake.cluster)

    assert (status.name, status.desired_count, status.running_count) == ("churn", 1, 1)
    assert [(task.status, task.health, task.port) for task in status.tasks] == [
        ("RUNNING", "healthy", fake.runner.tasks[0].host_port)
    ]
    assert [(rollout.status, rollout.state) for rollout in status.rollouts] == [("PRIMARY", "COMPLETED")]


def test_a_task_that_cannot_start_because_of_a_bug_is_stopped_with_a_reason(fake: FakeGateway) -> None:
    ecs = fake.aws.client("ecs")
    fake.runner.bug = TypeError("not tested with this Python")
    fake.create()
    wait_for(lambda: bool(ecs.list_tasks(cluster=fake.cluster, desiredStatus="STOPPED")["taskArns"]))

    arns = ecs.list_tasks(cluster=fake.cluster, desiredStatus="STOPPED")["taskArns"]
    task = ecs.describe_tasks(cluster=fake.cluster, tasks=arns[:1])["tasks"][0]
    assert task["stopCode"] == "TaskFailedToStart"
    assert "not tested with this Python" in task["stoppedReason"]


def test_a_task_of_a_service_is_replaced_when_its_container_is_unhealthy(fake: FakeGateway, tmp_path: Path) -> None:
    mark = tmp_path / "healthy"
    mark.touch()
    fake.create(check=f"test -e {mark}")
    fake.wait_until_completed()
    (first,) = fake.describe_tasks()
    assert (first["healthStatus"], first["containers"][0]["healthStatus"]) == ("HEALTHY", "HEALTHY")

    mark.unlink()

    wait_for(lambda: len(fake.runner.tasks) > 1)
    (stopped,) = fake.describe_tasks(first["taskArn"])
    assert stopped["stoppedReason"] == "Task failed container health checks"
    assert stopped["stopCode"] == "ServiceSchedulerInitiated"
    assert any("failed container health checks." in event["message"] for event in fake.service()["events"])


def test_a_rollout_waits_for_the_containers_check_and_not_only_for_the_load_balancers(fake: FakeGateway) -> None:
    fake.create(check="exit 1", healthCheckGracePeriodSeconds=120)

    wait_for(lambda: fake.routes.current != set())
    wait_for(lambda: fake.describe_tasks()[0]["healthStatus"] == "UNHEALTHY")

    assert fake.service()["deployments"][0]["rolloutState"] == "IN_PROGRESS"
    assert len(fake.runner.tasks) == 1  # the grace period applies to container health checks too


def test_every_container_of_a_task_is_described(fake: FakeGateway) -> None:
    init = {"name": "init", "image": "y", "essential": False}
    fake.create(init)
    fake.wait_until_completed()
    (task,) = fake.describe_tasks()
    assert [(one["name"], one["lastStatus"]) for one in task["containers"]] == [
        ("model", "RUNNING"),
        ("init", "RUNNING"),
    ]

    fake.runner.tasks[1].end(3)
    wait_for(lambda: fake.describe_tasks(task["taskArn"])[0]["containers"][1].get("exitCode") == 3)
    fake.runner.tasks[0].end(4)
    wait_for(lambda: fake.describe_tasks(task["taskArn"])[0]["lastStatus"] == "STOPPED")

    (task,) = fake.describe_tasks(task["taskArn"])
    assert task["stoppedReason"] == "Essential container in task exited"
    assert [one["exitCode"] for one in task["containers"]] == [4, 3]
    assert task["taskArn"].rsplit("/", 1)[-1] in fake.runner.released
    assert len({one["containerArn"] for one in task["containers"]}) == 2


def test_a_task_runs_without_its_main_container_if_it_does_not_need_it(fake: FakeGateway) -> None:
    init = {"name": "init", "image": "y", "essential": False}
    model = {"essential": False, "dependsOn": [{"containerName": "init", "condition": "SUCCESS"}]}
    fake.create(init, {"name": "sidecar", "image": "z"}, model=model)
    wait_for(lambda: len(fake.runner.tasks) == 2)
    fake.runner.tasks[0].end(1)
    wait_for(lambda: [task["lastStatus"] for task in fake.describe_tasks()] == ["RUNNING"])

    (task,) = fake.describe_tasks()
    assert [(one["name"], one["lastStatus"]) for one in task["containers"]] == [
        ("model", "STOPPED"),
        ("init", "STOPPED"),
        ("sidecar", "RUNNING"),
    ]
    assert "dependency did not exit successfully" in task["containers"][0]["reason"]
    health = fake.aws.client("elbv2").describe_target_health(TargetGroupArn=fake.group_arn)
    assert [one["TargetHealth"]["State"] for one in health["TargetHealthDescriptions"]] == ["initial"]

    fake.runner.tasks[1].end(2)
    wait_for(lambda: fake.describe_tasks(task["taskArn"])[0]["lastStatus"] == "STOPPED")
    assert fake.describe_tasks(task["taskArn"])[0]["stoppedReason"] == "Essential container in task exited"


# The last test, because it stops what the others use.


def test_stopping_the_engine_does_not_wait_for_draining_tasks(fake: FakeGateway) -> None:
    fake.set_deregistration_delay(300)
    fake.create(stop_timeout=120)
    fake.wait_until_completed()
    fake.runner.tasks[0].is_stubborn = True
    began = time.monotonic()

    fake.gateway.stop()

    assert time.monotonic() - began < 60
    assert fake.runner.tasks[0].code == 137

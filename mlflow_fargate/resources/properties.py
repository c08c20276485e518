"""What is decided about each type of resource: the fields that a plan compares and that `plan` prints by these names.

aws/ reads the same from AWS, so a field is None where AWS may have no value for it. The order is that of the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TypedDict

from typing_extensions import NotRequired

from mlflow_fargate.config.scaling_options import ScheduledCounts
from mlflow_fargate.config.task_options import FileSystem
from mlflow_fargate.plan import Properties
from mlflow_fargate.resources.names import short_digest
from mlflow_fargate.resources.policies import Policy

Cooldown = TypedDict("Cooldown", {"out": int, "in": int})


class ContainerHealthCheck(TypedDict):
    """As ECS takes it: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_HealthCheck.html"""

    command: list[str]
    interval: int
    timeout: int
    retries: int
    startPeriod: int


class Strategy(TypedDict):
    """How new tasks take over: the options of the strategy that mean something for it."""

    strategy: str
    bake_time_minutes: NotRequired[int]
    canary_percent: NotRequired[float]
    canary_bake_time_minutes: NotRequired[int]
    linear_step_percent: NotRequired[float]
    linear_step_bake_time_minutes: NotRequired[int]
    test_green: NotRequired[bool]
    test_timeout_minutes: NotRequired[int]


@dataclass(frozen=True)
class ClusterProperties(Properties):
    capacity_providers: tuple[str, ...]


@dataclass(frozen=True)
class RoleProperties(Properties):
    """Path and boundary are given when the role is created and do not change afterwards."""

    policy: Policy | None
    path: str
    permissions_boundary: str | None


@dataclass(frozen=True)
class LoadBalancerPorts(Properties):
    open_ports: tuple[int, ...]


@dataclass(frozen=True)
class TaskPorts(Properties):
    open_ports: tuple[str, ...] = ("from the load balancer",)


@dataclass(frozen=True)
class LoadBalancerProperties(Properties):
    subnets: tuple[str, ...]
    attributes: Mapping[str, str | None]


@dataclass(frozen=True)
class ListenerProperties(Properties):
    certificate: str | None


@dataclass(frozen=True)
class LogGroupProperties(Properties):
    retention_days: int | None


@dataclass(frozen=True)
class SecretsPolicyProperties(Properties):
    secrets: tuple[str, ...]


@dataclass(frozen=True)
class TargetGroupProperties(Properties):
    port: int
    health_check_path: str
    health_check_interval_seconds: int
    health_check_timeout_seconds: int
    healthy_threshold: int
    unhealthy_threshold: int
    deregistration_delay_seconds: int


@dataclass(frozen=True)
class ListenerRuleProperties(Properties):
    paths: tuple[str, ...]
    target_groups: tuple[str, ...]  # names


@dataclass(frozen=True)
class TestRuleProperties(Properties):
    __test__ = False  # pytest takes its name for a test's

    paths: tuple[str, ...]
    header: str
    target_groups: tuple[str, ...]


@dataclass(frozen=True)
class HostRuleProperties(Properties):
    hosts: tuple[str, ...]
    target_groups: tuple[str, ...]


@dataclass(frozen=True)
class TaskProperties(Properties):
    """The task definition without what only AWS knows: the ARNs of the API key's secret and of the roles made here."""

    image: str
    cpu: int
    memory_mib: int
    architecture: str | None
    port: int
    environment: Mapping[str, str]
    secrets: Mapping[str, str]
    has_api_key: bool
    log_group: str | None
    region: str | None
    stop_timeout_seconds: int | None
    ephemeral_storage_gib: int | None
    efs: Mapping[str, FileSystem]  # by path
    health_check: ContainerHealthCheck | None
    execution_role_arn: str | None  # None: the endpoint's
    task_role_arn: str | None  # None: none, or the one made here
    execute_command: bool
    label: str | None
    # A service lives on when its revision is deregistered, but ECS updates none to such a revision.
    status: str = "ACTIVE"

    @property
    def digest(self) -> str:
        return short_digest(asdict(self))


@dataclass(frozen=True)
class Capacity:
    spot: bool
    on_demand_base: int


@dataclass(frozen=True)
class ServiceProperties(Properties):
    """`rollout` is wanted "not failed", so that a failed first rollout is tried again by the next apply."""

    task_definition: str | None  # digest
    desired_count: int | None  # None: autoscaling decides
    first_count: int | None = field(compare=False)  # with autoscaling: how many tasks a new service starts with
    target_group: str  # name, as of the alternate
    alternate_target_group: str | None
    strategy: Strategy
    infrastructure_role_arn: str | None
    container_port: int | None
    subnets: tuple[str, ...]
    security_groups: tuple[str, ...]
    assign_public_ip: bool
    health_check_grace_seconds: int | None
    capacity: Capacity
    execute_command: bool
    follow: str | None
    tags: Mapping[str, str]  # the user's
    rollout: str = "not failed"
    current_count: int | None = field(default=None, compare=False)  # seen, never decided


@dataclass(frozen=True)
class ScalingProperties(Properties):
    counts: tuple[int, int]  # fewest, most
    targets: Mapping[str, float]  # by metric
    cooldown_seconds: Cooldown | None  # None: AWS has several
    requests_of: str | None  # the target group whose requests are counted
    schedule: Mapping[str, ScheduledCounts]
    timezone: str | None

"""The properties of each resource type: what a plan compares, and which option each of them comes from.

aws/ reads the same properties from AWS, so a field is None if AWS may have no value for it. Plans list them in this
order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar, TypedDict

from typing_extensions import NotRequired

from mlflow_fargate.config.scaling_options import ScheduledCounts
from mlflow_fargate.config.task_options import FileSystem
from mlflow_fargate.plan import Difference, Properties
from mlflow_fargate.resources.label_changes import label_changes, user_environment
from mlflow_fargate.resources.names import short_digest
from mlflow_fargate.resources.policies import Policy

Cooldown = TypedDict("Cooldown", {"out": int, "in": int})


class ContainerHealthCheck(TypedDict):
    """In ECS's format: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_HealthCheck.html"""

    command: list[str]
    interval: int
    timeout: int
    retries: int
    startPeriod: int


class Strategy(TypedDict):
    """How new tasks replace old ones: the strategy and the options that apply to it."""

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
    """The path and the boundary are set when the role is created and do not change afterwards."""

    policy: Policy | None
    path: str
    permissions_boundary: str | None

    def changes_since(self, before: Properties) -> Iterator[Difference]:
        """Says only that the policy differs: its statements are long."""
        if self != before:
            yield "policy", "outdated", "updated"


@dataclass(frozen=True)
class TaskPorts(Properties):
    open_ports: tuple[str, ...] = ("from the load balancer",)


@dataclass(frozen=True)
class ListenerProperties(Properties):
    option_names: ClassVar[Mapping[str, str]] = {"certificate": "certificate_arn"}

    certificate: str | None


@dataclass(frozen=True)
class LogGroupProperties(Properties):
    option_names: ClassVar[Mapping[str, str]] = {"retention_days": "log_retention_days"}

    retention_days: int | None


@dataclass(frozen=True)
class ApiKeyProperties(Properties):
    is_scheduled_for_deletion: bool = False


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
class AlarmProperties(Properties):
    """An alarm on the requests of a deployment's target groups. Its options are shown with the service."""

    option_names: ClassVar[Mapping[str, str]] = {"threshold": "", "formula": ""}

    threshold: float
    formula: str  # metric math; found: 'outdated' if it is that of other target groups
    metrics: Mapping[str, tuple[str, str]] = field(compare=False)  # prefix of the formula's names → metric, statistic


@dataclass(frozen=True)
class ListenerRuleProperties(Properties):
    paths: tuple[str, ...]
    target_groups: tuple[str, ...]  # names


@dataclass(frozen=True)
class TestRuleProperties(Properties):
    __test__ = False  # its name looks like a test's to pytest

    paths: tuple[str, ...]
    header: str
    target_groups: tuple[str, ...]
    value: str | None = None  # of the header: a variant's name; None: generated with the rule


@dataclass(frozen=True)
class TrafficProperties(Properties):
    option_names: ClassVar[Mapping[str, str]] = {"shares.": ""}

    shares: Mapping[str, int]  # deployment → percent of the requests; without those that get none


@dataclass(frozen=True)
class HostRuleProperties(Properties):
    option_names: ClassVar[Mapping[str, str]] = {"hosts": "host"}

    hosts: tuple[str, ...]
    target_groups: tuple[str, ...]


@dataclass(frozen=True)
class TaskProperties(Properties):
    """The task definition, without the ARNs of the API key's secret and of generated roles, which only AWS knows.

    A revision that names another secret or role than exists now is read as different.
    """

    option_names: ClassVar[Mapping[str, str]] = {
        "memory_mib": "memory",
        "execute_command": "enable_execute_command",
        **dict.fromkeys(("has_api_key", "health_check", "health_check.", "label", "is_confined", "status"), ""),
    }

    image: str
    cpu: int
    memory_mib: int
    architecture: str | None
    port: int
    environment: Mapping[str, str]
    secrets: Mapping[str, str]
    has_api_key: bool | None  # None: a secret that was deleted or replaced
    log_group: str | None
    region: str | None
    stop_timeout_seconds: int | None
    ephemeral_storage_gib: int | None
    efs: Mapping[str, FileSystem]  # by path
    health_check: ContainerHealthCheck | None
    execution_role_arn: str | None  # None: the endpoint's
    task_role_arn: str | None  # None: no role, or a generated one
    execute_command: bool
    label: str | None
    is_confined: bool = True  # runs as the image's user and group, and without capabilities unless ECS Exec is on
    # A service keeps running when its revision is deregistered, but ECS updates no service to such a revision.
    status: str = "ACTIVE"

    @property
    def digest(self) -> str:
        return short_digest(asdict(self))

    def changes_since(self, before: Properties) -> Iterator[Difference]:
        """Leaves out what follows from something else, such as the environment variable with the task's CPU units.

        If nothing else differs, everything is shown: a revision is registered for some reason.
        """
        assert isinstance(before, TaskProperties)  # noqa: S101  # a plan compares resources of one type
        shown = {name: (old, new) for name, old, new in self._option_changes(before)}
        if not shown:
            everything = {**label_changes(before.label, self.label, all_settings=True)}
            shown = everything or {name: (old, new) for name, old, new in super().changes_since(before)}
        for name, (old, new) in shown.items():
            yield name, old, new

    def _option_changes(self, before: TaskProperties) -> Iterator[Difference]:
        named = user_environment(before.label, self.label)
        for name, (old, new) in label_changes(before.label, self.label).items():
            yield name, old, new
        for name, old, new in super().changes_since(before):
            variable = name.removeprefix("environment.")
            if name == "image":
                yield name, _short_image(old), _short_image(new)
            elif variable == name or named is None or variable in named:
                yield name, old, new
        if before.has_api_key != self.has_api_key:
            yield "auth", _AUTH[before.has_api_key], _AUTH[self.has_api_key]
        if before.health_check != self.health_check:
            yield "container_health_check", _command(before.health_check), _command(self.health_check)
        if before.is_confined != self.is_confined:
            yield "user and capabilities", "outdated", "updated"
        if before.status != self.status:
            yield "revision", before.status.lower(), "registered again"


@dataclass(frozen=True)
class Capacity:
    """What tasks run on."""

    spot: bool
    on_demand_base: int


@dataclass(frozen=True)
class ServiceProperties(Properties):
    """`rollout` is always desired as "not failed", so that the next apply retries a failed first rollout."""

    option_names: ClassVar[Mapping[str, str]] = {
        "strategy.": "",
        "alarm_limits.": "",
        "capacity.": "",
        "container_port": "port",
        "execute_command": "enable_execute_command",
        # The task definition and the target groups are in the plan themselves.
        **dict.fromkeys(("task_definition", "target_group", "alternate_target_group", "rollout"), ""),
    }

    task_definition: str | None  # digest
    desired_count: int | None  # None: autoscaling decides, or it stays as it is
    first_count: int | None = field(compare=False)  # without it: how many tasks a new service starts with
    target_group: str  # name, as in the next field
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
    alarms: tuple[str, ...] = ()  # names: alarms that end a rollout
    alarm_limits: Mapping[str, float] = field(default_factory=dict)  # options of those that this package creates
    rollout: str = "not failed"
    traffic_rule: str = "the listener's"  # or another listener's, which it had before; if traffic is shifted
    current_count: int | None = field(default=None, compare=False)  # found, never decided

    def changes_since(self, before: Properties) -> Iterator[Difference]:
        """Adds that a failed rollout is retried."""
        yield from super().changes_since(before)
        if isinstance(before, ServiceProperties) and before.rollout != self.rollout:
            yield "last rollout", before.rollout, "retried"


@dataclass(frozen=True)
class ScalingProperties(Properties):
    option_names: ClassVar[Mapping[str, str]] = {
        "counts": "min_count, max_count",
        "targets.ECSServiceAverageCPUUtilization": "target_cpu_percent",
        "targets.ECSServiceAverageMemoryUtilization": "target_memory_percent",
        "targets.ALBRequestCountPerTarget": "target_requests_per_minute",
        "cooldown_seconds.out": "scale_out_cooldown_seconds",
        "cooldown_seconds.in": "scale_in_cooldown_seconds",
        "requests_of": "",
        "timezone": "schedule_timezone",
    }

    counts: tuple[int, int]  # fewest, most
    targets: Mapping[str, float]  # by metric
    cooldown_seconds: Cooldown | None  # None: AWS has several
    requests_of: str | None  # the target group whose requests are counted
    schedule: Mapping[str, ScheduledCounts]
    timezone: str | None


_AUTH: Mapping[bool | None, str] = {True: "api_key", False: "none", None: "api_key of a deleted secret"}


def _short_image(image: str) -> str:
    """Returns 'sha256:0123456789ab' of an image that is named by its digest; other texts as they are."""
    _, at, digest = image.partition("@")
    return digest[: len("sha256:") + 12] if at else image


def _command(check: ContainerHealthCheck | None) -> str | None:
    return check["command"][-1] if check else None

"""Types of the local ECS: services, rollouts, service deployments, tasks and their targets, as frozen data.

`rolling_decisions` decides from them, `transitions` returns the next value of one, `store` keeps the current ones, and
`ecs_shapes` converts them to AWS's JSON. Times are seconds since the epoch, as ECS's JSON protocol writes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow_fargate.local.engine.shift.state import Shift, ShiftRules

# Without a target group, a task counts as healthy after running this long (API reference, minimumHealthyPercent).
SETTLE_SECONDS = 40.0


@dataclass(frozen=True)
class Binding:
    """One entry of a service's `loadBalancers`: which port of which container a target group gets."""

    target_group_arn: str
    container_name: str
    container_port: int
    alternate_group_arn: str | None = None  # these three: only if traffic is shifted
    production_rule_arn: str | None = None
    test_rule_arn: str | None = None

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(arn for arn in (self.target_group_arn, self.alternate_group_arn) if arn)


@dataclass(frozen=True)
class DeploymentRules:
    """The limits of rollouts: a service's `deploymentConfiguration`, with AWS's defaults filled in."""

    minimum_healthy_percent: int = 100
    maximum_percent: int = 200
    breaker_is_on: bool = False
    rolls_back: bool = False
    resets_on_healthy_task: bool = True
    threshold_type: str | None = None
    threshold_value: int = 50
    alarms_roll_back: bool = False

    @classmethod
    def from_configuration(cls, configuration: Mapping[str, Any]) -> DeploymentRules:
        breaker = configuration.get("deploymentCircuitBreaker") or {}
        threshold = breaker.get("thresholdConfiguration") or {}
        return cls(
            minimum_healthy_percent=int(configuration.get("minimumHealthyPercent", 100)),
            maximum_percent=int(configuration.get("maximumPercent", 200)),
            breaker_is_on=bool(breaker.get("enable", False)),
            rolls_back=bool(breaker.get("rollback", False)),
            resets_on_healthy_task=bool(breaker.get("resetOnHealthyTask", True)),
            threshold_type=threshold.get("type"),
            threshold_value=int(threshold.get("value", 50)),
            alarms_roll_back=bool((configuration.get("alarms") or {}).get("rollback")),
        )

    def failure_threshold(self, desired_count: int) -> int:
        """Returns how many failed tasks trip the breaker; by default half the desired count, between 3 and 200."""
        if self.threshold_type == "COUNT":
            return max(1, self.threshold_value)
        share = math.ceil(desired_count * self.threshold_value / 100)
        if self.threshold_type == "UNBOUNDED_PERCENT":
            return max(1, share)
        return min(200, max(3, share))


@dataclass(frozen=True)
class TargetHealth:
    """An ALB's view of a target: `state` is initial, healthy, unhealthy, draining or unused."""

    state: str
    reason: str | None = None
    description: str | None = None


REGISTERING = TargetHealth("initial", "Elb.RegistrationInProgress", "Target registration is in progress")
DRAINING = TargetHealth("draining", "Target.DeregistrationInProgress", "Target deregistration is in progress")
HEALTHY = TargetHealth("healthy")


@dataclass(frozen=True)
class ServiceRevision:
    """A service revision: what a rollout deploys."""

    arn: str
    task_definition_arn: str
    created_at: float
    settings: Mapping[str, Any] = field(hash=False)  # loadBalancers, networkConfiguration … at that time
    group_arns: tuple[str, ...] = ()  # target groups that its tasks are registered in


@dataclass(frozen=True)
class Rollout:
    """An entry of a service's `deployments`: one revision and how far it got."""

    id: str  # ecs-svc/…
    revision: ServiceRevision
    status: str  # PRIMARY or ACTIVE
    state: str  # IN_PROGRESS, COMPLETED or FAILED
    reason: str
    created_at: float
    updated_at: float
    failed_tasks: int = 0  # in a row: AWS resets it when a task becomes healthy
    breaker_failures: int = 0
    last_failure_at: float = 0.0

    @property
    def is_primary(self) -> bool:
        return self.status == "PRIMARY"


@dataclass(frozen=True)
class Rollback:
    """A rollback: to which revision, since when and why."""

    reason: str
    started_at: float
    revision_arn: str


@dataclass(frozen=True)
class ServiceDeployment:
    """ECS's permanent record of one rollout, from start to end."""

    arn: str
    target: ServiceRevision
    source_arns: tuple[str, ...]
    status: str
    reason: str | None
    created_at: float
    updated_at: float
    finished_at: float | None = None
    rollback: Rollback | None = None
    breaker_status: str = "DISABLED"
    failure_count: int = 0
    threshold: int = 0
    watched_alarms: tuple[str, ...] | None = None  # without those that rang when it began; None: not looked at yet
    triggered_alarms: tuple[str, ...] = ()
    shift: Shift | None = None  # None: a rolling deployment

    @property
    def is_over(self) -> bool:
        return self.status in {"SUCCESSFUL", "STOPPED", "ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED"}


@dataclass(frozen=True)
class Event:
    id: str
    created_at: float
    message: str


@dataclass(frozen=True)
class Service:
    """The desired state of a service, and the history of its rollouts; its tasks are separate."""

    arn: str
    name: str
    cluster_arn: str
    status: str  # ACTIVE, DRAINING or INACTIVE
    desired_count: int
    created_at: float
    settings: Mapping[str, Any] = field(hash=False)  # request fields that are echoed unchanged
    tags: tuple[tuple[str, str], ...] = ()
    rollouts: tuple[Rollout, ...] = ()  # PRIMARY first
    deployments: tuple[ServiceDeployment, ...] = ()  # newest first
    revisions: tuple[ServiceRevision, ...] = ()  # newest first
    last_completed: ServiceRevision | None = None  # the breaker rolls back to it
    events: tuple[Event, ...] = ()  # newest first
    is_steady: bool = False
    steady_since: float = 0.0

    @property
    def primary(self) -> Rollout | None:
        return next((rollout for rollout in self.rollouts if rollout.is_primary), None)

    @property
    def rules(self) -> DeploymentRules:
        return DeploymentRules.from_configuration(self.settings.get("deploymentConfiguration") or {})

    @property
    def shift_rules(self) -> ShiftRules:
        return ShiftRules.from_configuration(self.settings.get("deploymentConfiguration") or {})

    @property
    def shift(self) -> Shift | None:
        """The traffic shift in progress; None without one, during a rolling deployment, and during a rollback."""
        current = self.deployments[0] if self.deployments else None
        return current.shift if current and not current.is_over and current.rollback is None else None

    @property
    def bindings(self) -> tuple[Binding, ...]:
        return tuple(_read_binding(entry) for entry in self.settings.get("loadBalancers") or ())

    @property
    def alarm_names(self) -> tuple[str, ...]:
        """The alarms that can end its rollouts."""
        return alarm_names_of(self.settings)

    @property
    def grace_seconds(self) -> float:
        return float(self.settings.get("healthCheckGracePeriodSeconds") or 0)


@dataclass(frozen=True)
class ContainerStatus:
    """A container of a task as ECS shows it."""

    name: str
    image: str
    is_essential: bool = True
    has_check: bool = False
    last_status: str = "PENDING"
    image_digest: str | None = None
    pid: int | None = None
    exit_code: int | None = None
    reason: str | None = None  # why it ended, if its exit code does not say it
    health: str = "UNKNOWN"  # HEALTHY or UNHEALTHY after checks


@dataclass(frozen=True)
class Task:
    """A task as ECS shows it, and the port its process actually listens on."""

    arn: str
    service_arn: str
    cluster_arn: str
    rollout_id: str
    task_definition_arn: str
    family: str
    containers: tuple[ContainerStatus, ...]
    cpu: str
    memory: str
    ip: str
    subnet_id: str
    created_at: float
    runs_commands: bool = False  # its service's enableExecuteCommand when the task started
    last_status: str = "PROVISIONING"
    desired_status: str = "RUNNING"
    pid: int | None = None
    host_port: int | None = None  # on 127.0.0.1; instead of the container port
    targets: tuple[tuple[str, TargetHealth], ...] = ()  # by target group ARN
    pull_started_at: float | None = None
    pull_stopped_at: float | None = None
    started_at: float | None = None
    stopping_at: float | None = None
    stopped_at: float | None = None
    stopped_reason: str | None = None
    stop_code: str | None = None

    @property
    def id(self) -> str:
        return self.arn.rsplit("/", 1)[-1]

    @property
    def is_stopped(self) -> bool:
        return self.last_status == "STOPPED"

    @property
    def is_wanted(self) -> bool:
        """Whether it is neither stopped nor stopping."""
        return self.desired_status == "RUNNING" and not self.is_stopped

    @property
    def health(self) -> str:
        """The worst health of its essential containers: UNHEALTHY, UNKNOWN, HEALTHY (API reference, HealthCheck)."""
        found = {container.health for container in self.containers if container.is_essential}
        return next((health for health in ("UNHEALTHY", "UNKNOWN") if health in found), "HEALTHY")

    def is_healthy(self, now: float) -> bool:
        """Returns whether it is healthy: all checks of essential containers and targets pass or, without any, it ran
        long enough (API reference, minimumHealthyPercent)."""
        if self.last_status != "RUNNING" or self.started_at is None:
            return False
        checks = [container.health for container in self.containers if container.is_essential and container.has_check]
        if self.targets or checks:
            is_passed = all(health == "HEALTHY" for health in checks)
            return is_passed and all(health.state == "healthy" for _, health in self.targets)
        return now - self.started_at >= SETTLE_SECONDS

    def unhealthy_target(self) -> tuple[str, TargetHealth] | None:
        return next(((arn, health) for arn, health in self.targets if health.state == "unhealthy"), None)


def alarm_names_of(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the alarms in a service's settings; none if they are disabled."""
    alarms = (settings.get("deploymentConfiguration") or {}).get("alarms") or {}
    return tuple(alarms.get("alarmNames") or ()) if alarms.get("enable") else ()


def _read_binding(entry: Mapping[str, Any]) -> Binding:
    shifted = entry.get("advancedConfiguration") or {}
    return Binding(
        entry["targetGroupArn"],
        entry["containerName"],
        int(entry["containerPort"]),
        shifted.get("alternateTargetGroupArn"),
        shifted.get("productionListenerRule"),
        shifted.get("testListenerRule"),
    )

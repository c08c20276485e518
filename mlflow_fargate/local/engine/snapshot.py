"""Snapshots of services and tasks for the status page and the command line."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_fargate.local.engine.state import Rollout, Service, ServiceDeployment, Task
from mlflow_fargate.local.engine.store import EcsStore

_EVENTS_SHOWN = 10
_ROLLOUTS_SHOWN = 5


@dataclass(frozen=True)
class TaskSnapshot:
    id: str
    task_definition: str  # family:revision
    status: str
    health: str  # of its target: initial, healthy …; '-' without a target group
    pid: int | None
    port: int | None  # on 127.0.0.1
    ip: str  # as in AWS's responses
    started_at: float | None
    stopped_reason: str | None


@dataclass(frozen=True)
class RolloutSnapshot:
    id: str
    task_definition: str
    status: str
    state: str
    reason: str
    failed_tasks: int


@dataclass(frozen=True)
class PastRollout:
    """One rollout from start to end, as in ECS's service deployments."""

    task_definition: str
    status: str  # SUCCESSFUL, ROLLBACK_SUCCESSFUL, IN_PROGRESS …
    reason: str
    began_at: float
    ended_at: float | None


@dataclass(frozen=True)
class ServiceSnapshot:
    name: str
    cluster: str
    status: str
    desired_count: int
    running_count: int
    rollouts: tuple[RolloutSnapshot, ...]
    tasks: tuple[TaskSnapshot, ...]  # newest first, including recently stopped ones
    events: tuple[tuple[float, str], ...]  # time and message, newest first
    history: tuple[PastRollout, ...] = ()  # newest first


def take_snapshots(store: EcsStore) -> tuple[ServiceSnapshot, ...]:
    """Returns every service that was not deleted, by name."""
    services = [service for service in store.services() if service.status != "INACTIVE"]
    return tuple(_service_status(service, store) for service in sorted(services, key=lambda service: service.arn))


def _service_status(service: Service, store: EcsStore) -> ServiceSnapshot:
    tasks = store.tasks(service.arn)
    return ServiceSnapshot(
        name=service.name,
        cluster=_last_part(service.cluster_arn),
        status=service.status,
        desired_count=service.desired_count,
        running_count=sum(task.last_status == "RUNNING" for task in tasks),
        rollouts=tuple(
            RolloutSnapshot(
                id=rollout.id,
                task_definition=_last_part(rollout.revision.task_definition_arn),
                status=rollout.status,
                state=rollout.state,
                reason=_tell_shift(service, rollout) or rollout.reason,
                failed_tasks=rollout.failed_tasks,
            )
            for rollout in service.rollouts
        ),
        tasks=tuple(_task_status(task) for task in reversed(tasks)),
        events=tuple((event.created_at, event.message) for event in service.events[:_EVENTS_SHOWN]),
        history=tuple(_past_rollout(one) for one in service.deployments[:_ROLLOUTS_SHOWN]),
    )


def _past_rollout(one: ServiceDeployment) -> PastRollout:
    reasons = (one.rollback.reason if one.rollback else None, one.reason)
    told = ". ".join(dict.fromkeys(reason.rstrip(".") for reason in reasons if reason))
    return PastRollout(_last_part(one.target.task_definition_arn), one.status, told, one.created_at, one.finished_at)


def _tell_shift(service: Service, rollout: Rollout) -> str | None:
    """Returns e.g. 'CANARY at BAKE_TIME: 100% of the traffic'; None unless the rollout is part of a traffic shift."""
    shift = service.shift
    if shift is None or rollout.id not in (shift.green_id, shift.blue_id):
        return None
    percent = shift.production_percent if rollout.id == shift.green_id else 100 - shift.production_percent
    return f"{service.shift_rules.strategy} at {shift.stage}: {percent:g}% of the traffic"


def _task_status(task: Task) -> TaskSnapshot:
    return TaskSnapshot(
        id=task.id,
        task_definition=_last_part(task.task_definition_arn),
        status=task.last_status,
        health=", ".join(health.state for _, health in task.targets) or "-",
        pid=task.pid,
        port=task.host_port,
        ip=task.ip,
        started_at=task.started_at,
        stopped_reason=task.stopped_reason,
    )


def _last_part(arn: str) -> str:
    return arn.rsplit("/", 1)[-1]

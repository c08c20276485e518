"""What a service needs next: pure deciding over frozen data, with ECS's rules for rolling deployments.

    decide(service, tasks, now) → acts        the engine does them and asks again

Old tasks leave only as healthy new ones take their place (minimum and maximum percent), a task that dies or fails its
target group's checks is replaced, with growing pauses, and the circuit breaker ends a rollout whose tasks keep failing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow_fargate.local.engine.state import Rollout, Service, Task

FIRST_RESTART_PAUSE_SECONDS = 1.0
# ECS goes up to 15 minutes; on one's own machine the mended model should not wait for that.
LONGEST_RESTART_PAUSE_SECONDS = 60.0


@dataclass(frozen=True)
class StartTasks:
    rollout_id: str
    count: int


@dataclass(frozen=True)
class StopTask:
    """`is_failure`: the task was no good, rather than no longer needed; the breaker counts those."""

    task_arn: str
    reason: str
    is_failure: bool = False


@dataclass(frozen=True)
class CompleteRollout:
    rollout_id: str


@dataclass(frozen=True)
class FailRollout:
    """The breaker trips; what follows (back to the last completed revision, or nothing) is in the service."""

    rollout_id: str


@dataclass(frozen=True)
class RollBack:
    """Somebody asked for it: StopServiceDeployment with stopType ROLLBACK."""


@dataclass(frozen=True)
class ForgetRollout:
    """An old rollout has no task left."""

    rollout_id: str


@dataclass(frozen=True)
class NoteSteadiness:
    is_steady: bool


@dataclass(frozen=True)
class NoteStuck:
    """minimumHealthyPercent forbids to stop and maximumPercent to start: nothing will happen before one is changed."""


@dataclass(frozen=True)
class Deactivate:
    """The deleted service has no task left."""


Act = (
    StartTasks
    | StopTask
    | CompleteRollout
    | FailRollout
    | RollBack
    | ForgetRollout
    | NoteSteadiness
    | NoteStuck
    | Deactivate
)


def decide(service: Service, tasks: Sequence[Task], now: float) -> tuple[Act, ...]:
    """The acts that bring `service` one step nearer to what is wanted; none when there is nothing to do but wait."""
    if service.status == "DRAINING":
        return _drain(tasks)
    primary = service.primary
    if primary is None or service.status == "INACTIVE":
        return ()
    if service.deployments and service.deployments[0].status == "ROLLBACK_REQUESTED":
        return (RollBack(),)
    if _breaker_trips(service, primary):
        return (FailRollout(primary.id),)
    sick = _stop_unhealthy(service, tasks, now)
    if sick:
        return sick
    stops = _stop_surplus(service, primary, tasks, now)
    return (
        *_forget_drained(service, tasks),
        *_start(service, primary, tasks, now),
        *stops,
        *(() if stops else _note_stuck(service, primary, tasks)),
        *_judge(service, primary, tasks, now),
    )


def restart_pause(failures_in_a_row: int) -> float:
    """Seconds to wait before the next start after so many failures: none, then 1, 2, 4 … up to a minute."""
    if failures_in_a_row == 0:
        return 0.0
    return float(min(LONGEST_RESTART_PAUSE_SECONDS, FIRST_RESTART_PAUSE_SECONDS * 2 ** min(failures_in_a_row - 1, 10)))


def _drain(tasks: Sequence[Task]) -> tuple[Act, ...]:
    wanted = [task for task in tasks if task.is_wanted]
    if wanted:
        return tuple(StopTask(task.arn, "Service is being deleted") for task in wanted)
    return (Deactivate(),) if all(task.is_stopped for task in tasks) else ()


def _breaker_trips(service: Service, primary: Rollout) -> bool:
    rules = service.rules
    return (
        rules.breaker_is_on
        and primary.state == "IN_PROGRESS"
        and primary.breaker_failures >= rules.failure_threshold(service.desired_count)
    )


def _stop_unhealthy(service: Service, tasks: Sequence[Task], now: float) -> tuple[Act, ...]:
    acts: list[Act] = []
    for task in tasks:
        target = task.unhealthy_target()
        if target is None or not task.is_wanted or task.started_at is None:
            continue
        if now - task.started_at < service.grace_seconds:
            continue
        reason = f"Task failed ELB health checks in (target-group {target[0]})"
        acts.append(StopTask(task.arn, reason, is_failure=True))
    return tuple(acts)


def _forget_drained(service: Service, tasks: Sequence[Task]) -> tuple[Act, ...]:
    busy = {task.rollout_id for task in tasks if not task.is_stopped}
    return tuple(ForgetRollout(old.id) for old in service.rollouts if not old.is_primary and old.id not in busy)


def _start(service: Service, primary: Rollout, tasks: Sequence[Task], now: float) -> tuple[Act, ...]:
    # "A deployment in FAILED state doesn't launch any new tasks" (API reference, rolloutState).
    if primary.state == "FAILED" or now - primary.last_failure_at < restart_pause(primary.failed_tasks):
        return ()
    count = min(_missing(service, primary, tasks), _room(service, tasks))
    return (StartTasks(primary.id, count),) if count > 0 else ()


def _missing(service: Service, primary: Rollout, tasks: Sequence[Task]) -> int:
    return service.desired_count - sum(task.is_wanted and task.rollout_id == primary.id for task in tasks)


def _room(service: Service, tasks: Sequence[Task]) -> int:
    """How many more tasks maximumPercent allows; tasks that are stopping still take their place."""
    limit = math.floor(service.desired_count * service.rules.maximum_percent / 100)
    return limit - sum(not task.is_stopped for task in tasks)


def _stop_surplus(service: Service, primary: Rollout, tasks: Sequence[Task], now: float) -> tuple[Act, ...]:
    wanted = [task for task in tasks if task.is_wanted]
    new = [task for task in wanted if task.rollout_id == primary.id]
    old = [task for task in wanted if task.rollout_id != primary.id]
    # The least useful first: those not healthy yet, then the youngest.
    new.sort(key=lambda task: (task.is_healthy(now), -task.created_at))
    surplus = new[: max(0, len(new) - service.desired_count)]
    if primary.state == "FAILED":
        old = []  # nothing came to take their place
    useless = [task for task in old if not task.is_healthy(now)]
    serving = [task for task in old if task.is_healthy(now)]
    leaving = surplus + useless + serving[: _may_stop(service, primary, tasks, now)]
    reason = f"Scaling activity initiated by (deployment {primary.id})"
    return tuple(StopTask(task.arn, reason) for task in leaving)


def _may_stop(service: Service, primary: Rollout, tasks: Sequence[Task], now: float) -> int:
    """How many healthy old tasks may go: the replaced ones; more only where there is no room to start otherwise."""
    healthy = sum(task.is_wanted and task.is_healthy(now) for task in tasks)
    lowest = math.ceil(service.desired_count * service.rules.minimum_healthy_percent / 100)
    replaced = healthy - max(service.desired_count, lowest)
    blocked = max(0, _missing(service, primary, tasks) - max(0, _room(service, tasks)))
    return max(0, replaced, min(healthy - lowest, blocked))


def _note_stuck(service: Service, primary: Rollout, tasks: Sequence[Task]) -> tuple[Act, ...]:
    is_moving = any(not task.is_wanted and not task.is_stopped for task in tasks) or any(
        task.is_wanted and task.rollout_id == primary.id for task in tasks
    )
    is_blocked = _missing(service, primary, tasks) > 0 and _room(service, tasks) <= 0
    return (NoteStuck(),) if primary.state == "IN_PROGRESS" and is_blocked and not is_moving else ()


def _judge(service: Service, primary: Rollout, tasks: Sequence[Task], now: float) -> tuple[Act, ...]:
    """Is the rollout complete, is the service steady: every task wanted is healthy and nothing else is left."""
    left = [task for task in tasks if not task.is_stopped]
    is_steady = len(left) == service.desired_count and all(
        task.is_wanted and task.rollout_id == primary.id and task.is_healthy(now) for task in left
    )
    acts: list[Act] = []
    if is_steady and primary.state == "IN_PROGRESS":
        acts.append(CompleteRollout(primary.id))
    if is_steady != service.is_steady and primary.state != "FAILED":
        acts.append(NoteSteadiness(is_steady))
    return tuple(acts)

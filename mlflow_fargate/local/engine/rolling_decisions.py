"""Decides what a service needs next: pure functions over frozen data, with ECS's rules.

    decide(service, tasks, now) → actions      the engine carries them out and calls it again

While traffic is shifted, `shift` decides; this module is for rolling deployments and for services without a rollout.

Old tasks stop only as healthy new ones replace them (minimum and maximum percent); a task that dies or fails its target
group's checks is replaced, after increasing pauses; and the circuit breaker ends a rollout whose tasks keep failing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlflow_fargate.local.cloudwatch.alarms import AlarmStates
from mlflow_fargate.local.engine.actions import (
    Action,
    CompleteRollout,
    Deactivate,
    FailRollout,
    ForgetRollout,
    NoteSteadiness,
    NoteStuck,
    RollBack,
    StartTasks,
    StopTask,
    WatchAlarms,
    may_start,
)
from mlflow_fargate.local.engine.shift.decisions import decide_shift
from mlflow_fargate.local.engine.state import Rollout, Service, Task

_NO_ALARMS = AlarmStates()


def decide(
    service: Service,
    tasks: Sequence[Task],
    now: float,
    minute_seconds: float = 60.0,
    alarms: AlarmStates = _NO_ALARMS,
) -> tuple[Action, ...]:
    """Returns the actions that bring `service` closer to its desired state; none if it only has to wait."""
    if service.status == "DRAINING":
        return _drain(tasks)
    primary = service.primary
    if primary is None or service.status == "INACTIVE":
        return ()
    if service.deployments and service.deployments[0].status == "ROLLBACK_REQUESTED":
        return (RollBack(),)
    if ended := _end_failed(service, primary, alarms) or _stop_unhealthy(service, tasks, now):
        return ended
    shift = service.shift
    if shift:
        return decide_shift(service, shift, tasks, now, minute_seconds)
    return _roll(service, primary, tasks, now, _bake_minutes(service, alarms) * minute_seconds)


def _roll(
    service: Service, primary: Rollout, tasks: Sequence[Task], now: float, bake_seconds: float
) -> tuple[Action, ...]:
    stops = _stop_surplus(service, primary, tasks, now)
    return (
        *_forget_drained(service, tasks),
        *_start(service, primary, tasks, now),
        *stops,
        *(() if stops else _note_stuck(service, primary, tasks)),
        *_judge(service, primary, tasks, now, bake_seconds),
    )


def _drain(tasks: Sequence[Task]) -> tuple[Action, ...]:
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


def _end_failed(service: Service, primary: Rollout, alarms: AlarmStates) -> tuple[Action, ...]:
    """The circuit breaker or an alarm, whichever is first. One that rings when a rollout begins is ignored in it."""
    if _breaker_trips(service, primary):
        return (FailRollout(primary.id),)
    current = service.deployments[0] if service.deployments else None
    if current is None or current.is_over or current.rollback is not None or not service.alarm_names:
        return ()
    if current.watched_alarms is None:
        return (WatchAlarms(tuple(name for name in service.alarm_names if name not in alarms.ringing)),)
    triggered = tuple(name for name in current.watched_alarms if name in alarms.ringing)
    return (FailRollout(primary.id, triggered),) if triggered else ()


def _bake_minutes(service: Service, alarms: AlarmStates) -> float:
    """How long a rolling update stays IN_PROGRESS after its last old task: ECS computes it from the alarms."""
    current = service.deployments[0] if service.deployments else None
    watched = (current.watched_alarms or ()) if current and current.rollback is None else ()
    return max((1 + alarms.minutes[name] for name in watched if name in alarms.minutes), default=0.0)


def _stop_unhealthy(service: Service, tasks: Sequence[Task], now: float) -> tuple[Action, ...]:
    actions: list[Action] = []
    for task in tasks:
        target = task.unhealthy_target()
        is_sick = target is not None or task.health == "UNHEALTHY"
        if not is_sick or not task.is_wanted or task.started_at is None:
            continue
        if now - task.started_at < service.grace_seconds:
            continue
        reason = "Task failed container health checks"
        if target is not None:
            reason = f"Task failed ELB health checks in (target-group {target[0]})"
        actions.append(StopTask(task.arn, reason, is_failure=True))
    return tuple(actions)


def _forget_drained(service: Service, tasks: Sequence[Task]) -> tuple[Action, ...]:
    busy = {task.rollout_id for task in tasks if not task.is_stopped}
    return tuple(ForgetRollout(old.id) for old in service.rollouts if not old.is_primary and old.id not in busy)


def _start(service: Service, primary: Rollout, tasks: Sequence[Task], now: float) -> tuple[Action, ...]:
    if not may_start(primary, now):
        return ()
    count = min(_missing(service, primary, tasks), _room(service, tasks))
    return (StartTasks(primary.id, count),) if count > 0 else ()


def _missing(service: Service, primary: Rollout, tasks: Sequence[Task]) -> int:
    return service.desired_count - sum(task.is_wanted and task.rollout_id == primary.id for task in tasks)


def _room(service: Service, tasks: Sequence[Task]) -> int:
    """Returns how many more tasks maximumPercent allows; tasks that are stopping still count."""
    limit = math.floor(service.desired_count * service.rules.maximum_percent / 100)
    return limit - sum(not task.is_stopped for task in tasks)


def _stop_surplus(service: Service, primary: Rollout, tasks: Sequence[Task], now: float) -> tuple[Action, ...]:
    wanted = [task for task in tasks if task.is_wanted]
    new = [task for task in wanted if task.rollout_id == primary.id]
    old = [task for task in wanted if task.rollout_id != primary.id]
    # The least useful first: those not healthy yet, then the newest.
    new.sort(key=lambda task: (task.is_healthy(now), -task.created_at))
    surplus = new[: max(0, len(new) - service.desired_count)]
    if primary.state == "FAILED":
        old = []  # nothing has replaced them
    useless = [task for task in old if not task.is_healthy(now)]
    serving = [task for task in old if task.is_healthy(now)]
    leaving = surplus + useless + serving[: _may_stop(service, primary, tasks, now)]
    reason = f"Scaling activity initiated by (deployment {primary.id})"
    return tuple(StopTask(task.arn, reason) for task in leaving)


def _may_stop(service: Service, primary: Rollout, tasks: Sequence[Task], now: float) -> int:
    """Returns how many healthy old tasks can stop: those replaced; more only if there is no room to start new ones."""
    healthy = sum(task.is_wanted and task.is_healthy(now) for task in tasks)
    lowest = math.ceil(service.desired_count * service.rules.minimum_healthy_percent / 100)
    replaced = healthy - max(service.desired_count, lowest)
    blocked = max(0, _missing(service, primary, tasks) - max(0, _room(service, tasks)))
    return max(0, replaced, min(healthy - lowest, blocked))


def _note_stuck(service: Service, primary: Rollout, tasks: Sequence[Task]) -> tuple[Action, ...]:
    is_moving = any(not task.is_wanted and not task.is_stopped for task in tasks) or any(
        task.is_wanted and task.rollout_id == primary.id for task in tasks
    )
    is_blocked = _missing(service, primary, tasks) > 0 and _room(service, tasks) <= 0
    return (NoteStuck(),) if primary.state == "IN_PROGRESS" and is_blocked and not is_moving else ()


def _judge(
    service: Service, primary: Rollout, tasks: Sequence[Task], now: float, bake_seconds: float
) -> tuple[Action, ...]:
    """Decides whether the rollout is complete and the service steady: all desired tasks healthy, no others left."""
    is_baked = not bake_seconds or (service.is_steady and now >= service.steady_since + bake_seconds)
    left = [task for task in tasks if not task.is_stopped]
    is_steady = len(left) == service.desired_count and all(
        task.is_wanted and task.rollout_id == primary.id and task.is_healthy(now) for task in left
    )
    actions: list[Action] = []
    if is_steady and is_baked and primary.state == "IN_PROGRESS":
        actions.append(CompleteRollout(primary.id))
    if is_steady != service.is_steady and primary.state != "FAILED":
        actions.append(NoteSteadiness(is_steady))
    return tuple(actions)

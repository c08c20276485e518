"""Returns a service's next value after a change: pure functions, with ECS's words for states, reasons and events.

`engine` calls these under the store's lock; nothing here blocks, makes calls or starts anything.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

from mlflow_fargate.local.engine.shift.state import Shift
from mlflow_fargate.local.engine.state import (
    Event,
    Rollback,
    Rollout,
    Service,
    ServiceDeployment,
    ServiceRevision,
    Task,
)

KEPT_EVENTS = 100
FAILED_REASON = "ECS deployment circuit breaker: tasks failed to start."
STUCK = (
    "was unable to stop or start tasks during a deployment because of the service deployment configuration. "
    "Update the minimumHealthyPercent or maximumPercent value and try again."
)
BREAKER_ROLLED_BACK = "Service deployment rolled back because the circuit breaker threshold was exceeded."
ALARM_ROLLED_BACK = "Service deployment rolled back because alarms were triggered."
NOWHERE = "No earlier service revision ever completed, so there is nothing to roll back to."
NOWHERE_TO_ROLL_BACK = (
    "Service deployment failed because the circuit breaker threshold was exceeded; "
    "no earlier service revision ever completed, so there is nothing to roll back to."
)
USER_ROLLED_BACK = "Service deployment rolled back because a user asked to stop it."


def say(service: Service, message: str, now: float) -> Service:
    """Returns `service` with one more event, '(service NAME) message'."""
    event = Event(secrets.token_hex(16), now, f"(service {service.name}) {message}")
    return replace(service, events=(event, *service.events)[:KEPT_EVENTS])


def begin_rollout(service: Service, task_definition_arn: str, now: float) -> Service:
    """Makes a new revision PRIMARY; supersedes a service deployment in progress."""
    blue = _last_completed_rollout(service)
    groups = _groups(service, blue)
    revision = ServiceRevision(_arn(service, "service-revision"), task_definition_arn, now, service.settings, groups)
    identity = f"ecs-svc/{secrets.randbelow(10**19):019d}"
    rollout = Rollout(identity, revision, "PRIMARY", "IN_PROGRESS", f"ECS deployment {identity} in progress.", now, now)
    older = tuple(replace(old, status="ACTIVE", updated_at=now) for old in service.rollouts)
    rules = service.rules
    deployment = ServiceDeployment(
        arn=_arn(service, "service-deployment"),
        target=revision,
        source_arns=tuple(old.revision.arn for old in older),
        status="IN_PROGRESS",
        reason=None,
        created_at=now,
        updated_at=now,
        breaker_status="MONITORING" if rules.breaker_is_on else "DISABLED",
        threshold=rules.failure_threshold(service.desired_count),
        shift=_begin_shift(service, blue, rollout, now),
    )
    superseded = _end_current(service, "STOPPED", "Service deployment was superseded by a newer one.", now)
    return replace(
        superseded,
        rollouts=(rollout, *older),
        revisions=(revision, *service.revisions),
        deployments=(deployment, *superseded.deployments),
        is_steady=False,
    )


def _last_completed_rollout(service: Service) -> Rollout | None:
    done = service.last_completed
    return next((rollout for rollout in service.rollouts if done and rollout.revision.arn == done.arn), None)


def _groups(service: Service, blue: Rollout | None) -> tuple[str, ...]:
    """Returns the target groups of a new revision's tasks: if traffic is shifted, those that blue does not use.

    A first deployment uses the alternate groups and then shifts like any other, as observed on AWS.
    """
    if not service.shift_rules.shifts:
        return tuple(binding.target_group_arn for binding in service.bindings)
    taken = blue.revision.group_arns if blue else tuple(binding.target_group_arn for binding in service.bindings)
    return tuple(next(arn for arn in binding.groups if arn not in taken) for binding in service.bindings)


def _begin_shift(service: Service, blue: Rollout | None, green: Rollout, now: float) -> Shift | None:
    """Returns the shift to `green`; the traffic share of an interrupted shift is reset first."""
    if not service.shift_rules.shifts:
        return None
    left = service.shift.production_percent if service.shift else 0.0
    return Shift(blue.id if blue else None, green.id, "RECONCILE_SERVICE", now, production_percent=left)


def complete_rollout(service: Service, rollout_id: str, now: float) -> Service:
    """Completes a rollout that reached its steady state; the breaker rolls back to its revision from now on."""
    reason = f"ECS deployment {rollout_id} completed."
    service = _with_rollout(
        service, rollout_id, lambda rollout: replace(rollout, state="COMPLETED", reason=reason, updated_at=now)
    )
    primary = service.primary
    current = service.deployments[0]
    if not current.is_over:
        went_back = current.rollback is not None
        service = _end_current(
            service, "ROLLBACK_SUCCESSFUL" if went_back else "SUCCESSFUL", current.reason if went_back else None, now
        )
    service = replace(service, last_completed=primary.revision if primary else None)
    return say(service, f"(deployment {rollout_id}) deployment completed.", now)


def fail_rollout(service: Service, rollout_id: str, now: float, alarms: tuple[str, ...] = ()) -> Service:
    """Sets the rollout FAILED; rolls back to the last completed revision if there is one and rollback is on.

    `alarms`: those that ended it; without any, the circuit breaker did.
    """
    said = "alarm detected." if alarms else "tasks failed to start."
    reason = f"ECS deployment {rollout_id} failed: {said}" if alarms else FAILED_REASON
    service = _with_rollout(
        service, rollout_id, lambda rollout: replace(rollout, state="FAILED", reason=reason, updated_at=now)
    )
    service = say(service, f"(deployment {rollout_id}) deployment failed: {said}", now)
    failed, back_to = service.primary, service.last_completed
    ended = {"triggered_alarms": alarms} if alarms else {"breaker_status": "TRIGGERED"}
    service = _with_current(service, lambda deployment: replace(deployment, **ended))
    if not (service.rules.alarms_roll_back if alarms else service.rules.rolls_back):
        return _end_current(service, "STOPPED", reason, now)
    if back_to is None or failed is None or back_to.arn == failed.revision.arn:
        return _end_current(service, "ROLLBACK_FAILED", f"{reason} {NOWHERE}" if alarms else NOWHERE_TO_ROLL_BACK, now)
    if alarms:
        return roll_back(service, ALARM_ROLLED_BACK, now, cause="ECS deployment alarms")
    return roll_back(service, BREAKER_ROLLED_BACK, now, cause="ECS deployment circuit breaker")


def watch_alarms(service: Service, names: tuple[str, ...]) -> Service:
    """Returns the service whose current deployment watches these alarms."""
    return _with_current(service, lambda deployment: replace(deployment, watched_alarms=names))


def roll_back(service: Service, reason: str, now: float, cause: str = "ECS deployment") -> Service:
    """Makes the last completed revision PRIMARY again: with its remaining tasks, if any, otherwise with new ones."""
    back_to = service.last_completed
    if back_to is None:
        primary = service.primary
        failed = replace(primary, state="FAILED", reason=reason, updated_at=now) if primary else None
        service = _with_rollout(service, failed.id, lambda _: failed) if failed else service
        return _end_current(service, "ROLLBACK_FAILED", f"{reason} {NOWHERE}", now)
    known = next((rollout for rollout in service.rollouts if rollout.revision.arn == back_to.arn), None)
    identity = known.id if known else f"ecs-svc/{secrets.randbelow(10**19):019d}"
    text = f"{cause}: rolling back to deploymentId {identity}."
    created_at = known.created_at if known else now
    primary = Rollout(identity, back_to, "PRIMARY", "IN_PROGRESS", text, created_at, now)
    others = tuple(replace(old, status="ACTIVE", updated_at=now) for old in service.rollouts if old.id != identity)
    service = replace(service, rollouts=(primary, *others), is_steady=False)
    service = _with_current(
        service,
        lambda deployment: replace(
            deployment,
            status="ROLLBACK_IN_PROGRESS",
            reason=reason,
            updated_at=now,
            rollback=Rollback(reason, now, back_to.arn),
        ),
    )
    return say(service, f"rolling back to deployment {identity}.", now)


def request_rollback(service: Service, now: float, reason: str = USER_ROLLED_BACK) -> Service:
    """Marks the current service deployment for rollback in the scheduler's next turn."""
    return _with_current(
        service,
        lambda current: replace(current, status="ROLLBACK_REQUESTED", reason=reason, updated_at=now),
        only_open=True,
    )


def count_failure(service: Service, rollout_id: str, now: float) -> Service:
    """Counts one more failed task of the rollout."""
    service = _with_rollout(
        service,
        rollout_id,
        lambda rollout: replace(
            rollout,
            failed_tasks=rollout.failed_tasks + 1,
            breaker_failures=rollout.breaker_failures + 1,
            last_failure_at=now,
        ),
    )
    primary = service.primary
    if primary and primary.id == rollout_id:
        count = primary.breaker_failures
        service = _with_current(service, lambda current: replace(current, failure_count=count), only_open=True)
        if primary.failed_tasks == 3:
            service = say(service, "is unable to consistently start tasks successfully.", now)
    return service


def count_success(service: Service, rollout_id: str) -> Service:
    """Resets the count of failures in a row after a task of the rollout became healthy."""
    resets = service.rules.resets_on_healthy_task
    return _with_rollout(
        service,
        rollout_id,
        lambda rollout: replace(rollout, failed_tasks=0, breaker_failures=0 if resets else rollout.breaker_failures),
    )


def forget_rollout(service: Service, rollout_id: str) -> Service:
    return replace(service, rollouts=tuple(rollout for rollout in service.rollouts if rollout.id != rollout_id))


def note_steadiness(service: Service, is_steady: bool, now: float) -> Service:
    service = replace(service, is_steady=is_steady, steady_since=now)
    return say(service, "has reached a steady state.", now) if is_steady else service


def note_stuck(service: Service, now: float) -> Service:
    """Adds the event once in a row; AWS omits repeated events for hours."""
    if service.events and service.events[0].message.endswith(STUCK):
        return service
    return say(service, STUCK, now)


def begin_deletion(service: Service, now: float) -> Service:
    service = _end_current(service, "STOPPED", "Service is being deleted.", now)
    return replace(service, status="DRAINING", desired_count=0)


def deactivate(service: Service) -> Service:
    return replace(service, status="INACTIVE", desired_count=0, rollouts=(), tags=())


def tell_tasks(verb: str, tasks: list[Task]) -> str:
    """Returns e.g. 'has started 2 tasks: (task 1a2b…) (task 3c4d…).'"""
    names = " ".join(f"(task {task.id})" for task in tasks)
    return f"has {verb} {len(tasks)} {'running ' if verb == 'stopped' else ''}tasks: {names}."


def _arn(service: Service, kind: str) -> str:
    """arn:…:service/CLUSTER/NAME → arn:…:KIND/CLUSTER/NAME/ID"""
    return f"{service.arn.replace(':service/', f':{kind}/', 1)}/{secrets.token_urlsafe(16)}"


def _with_rollout(service: Service, rollout_id: str, change: Callable[[Rollout], Rollout]) -> Service:
    changed = tuple(change(rollout) if rollout.id == rollout_id else rollout for rollout in service.rollouts)
    return replace(service, rollouts=changed)


def _with_current(
    service: Service, change: Callable[[ServiceDeployment], ServiceDeployment], *, only_open: bool = False
) -> Service:
    if not service.deployments or (only_open and service.deployments[0].is_over):
        return service
    return replace(service, deployments=(change(service.deployments[0]), *service.deployments[1:]))


def _end_current(service: Service, status: str, reason: str | None, now: float) -> Service:
    """Ends the current service deployment with this status; one that is already over is unchanged."""

    def end(deployment: ServiceDeployment) -> ServiceDeployment:
        breaker = deployment.breaker_status
        return replace(
            deployment,
            status=status,
            reason=reason,
            finished_at=now,
            updated_at=now,
            breaker_status="MONITORING_COMPLETE" if breaker == "MONITORING" else breaker,
        )

    return _with_current(service, end, only_open=True)

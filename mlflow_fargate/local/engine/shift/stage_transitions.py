"""Returns a service's next value while its traffic is shifted: pure functions, with ECS's messages.

`transitions.begin_rollout` starts a shift if the service's strategy requires one; these continue it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

from mlflow_fargate.local.engine import transitions
from mlflow_fargate.local.engine.shift.state import Hook, Shift
from mlflow_fargate.local.engine.state import Service

HOOK_ROLLED_BACK = "Service deployment rolled back because of a ROLLBACK action on the PAUSE lifecycle hook of {stage}."
HOOK_TIMED_OUT = "Service deployment rolled back because the PAUSE lifecycle hook of {stage} timed out."
NO_RULES = "Service deployment rolled back because of invalid networking configuration. One or more rules not found"
NOT_ASSOCIATED = (
    "Service deployment rolled back because of invalid networking configuration. Both targetGroup and "
    "alternateTargetGroup must be associated with the productionListenerRule or testListenerRule."
)


def enter_stage(service: Service, stage: str, now: float) -> Service:
    """Returns the shift at its next stage; a hook of that stage pauses it again."""
    return _with_shift(
        service,
        lambda shift: replace(
            shift,
            stage=stage,
            since=now,
            is_share_moved=False,
            paused_stages=tuple(paused for paused in shift.paused_stages if paused != stage),
        ),
        now,
    )


def move_traffic(service: Service, production_percent: float, test_percent: float, now: float) -> Service:
    """Returns the shift with green's new shares; ECS writes no event for it."""
    return _with_shift(
        service,
        lambda shift: replace(
            shift,
            production_percent=production_percent,
            test_percent=test_percent,
            is_share_moved=True,
            since=now,
        ),
        now,
    )


def open_hook(service: Service, stage: str, now: float, minute_seconds: float) -> Service:
    """Returns the service with the stage's PAUSE hook waiting for an action."""
    minutes, action = next((minutes, action) for name, minutes, action in service.shift_rules.pauses if name == stage)
    hook = Hook(
        f"ecs-pause-{secrets.token_urlsafe(24)}", stage, "AWAITING_ACTION", now + minutes * minute_seconds, action
    )
    return _with_shift(
        service,
        lambda shift: replace(shift, hooks=(*shift.hooks, hook), paused_stages=(*shift.paused_stages, stage)),
        now,
    )


def answer_hook(service: Service, hook_id: str, action: str, now: float) -> Service:
    """Returns the service after ContinueServiceDeployment: it continues or rolls back."""
    service, stage = _end_hook(service, hook_id, "SUCCEEDED" if action == "CONTINUE" else "FAILED", now)
    if action == "CONTINUE":
        return service
    return transitions.request_rollback(service, now, HOOK_ROLLED_BACK.format(stage=stage))


def time_out_hook(service: Service, hook_id: str, now: float) -> Service:
    """Returns the service after the hook timed out, with the hook's timeout action applied."""
    hook = next(hook for hook in service.shift.hooks if hook.id == hook_id) if service.shift else None
    service, stage = _end_hook(service, hook_id, "TIMED_OUT", now)
    if hook is None or hook.timeout_action == "CONTINUE":
        return service
    return transitions.request_rollback(service, now, HOOK_TIMED_OUT.format(stage=stage))


def _end_hook(service: Service, hook_id: str, status: str, now: float) -> tuple[Service, str]:
    shift = service.shift
    stage = next((hook.stage for hook in shift.hooks if hook.id == hook_id), "") if shift else ""
    ended = _with_shift(
        service,
        lambda shift: replace(
            shift, hooks=tuple(replace(hook, status=status) if hook.id == hook_id else hook for hook in shift.hooks)
        ),
        now,
    )
    return ended, stage


def _with_shift(service: Service, change: Callable[[Shift], Shift], now: float) -> Service:
    if service.shift is None:  # it was ended in the meantime
        return service
    current = service.deployments[0]
    changed = replace(current, shift=change(service.shift), updated_at=now)
    return replace(service, deployments=(changed, *service.deployments[1:]))

"""What the scheduler can decide to do next, as frozen data: rolling_decisions and shift decide, `engine` does it."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_fargate.local.engine.state import Rollout

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


@dataclass(frozen=True)
class EnterStage:
    """The shift under way comes to its next lifecycle stage."""

    stage: str


@dataclass(frozen=True)
class MoveTraffic:
    """Green gets these shares of the production rule's and of the test rule's traffic."""

    production_percent: float
    test_percent: float


@dataclass(frozen=True)
class OpenHook:
    """The stage is paused until somebody acts, or the hook's time is over."""

    stage: str


@dataclass(frozen=True)
class TimeOutHook:
    """Nobody acted in time."""

    hook_id: str


Action = (
    StartTasks
    | StopTask
    | CompleteRollout
    | FailRollout
    | RollBack
    | ForgetRollout
    | NoteSteadiness
    | NoteStuck
    | Deactivate
    | EnterStage
    | MoveTraffic
    | OpenHook
    | TimeOutHook
)


def restart_pause(failures_in_a_row: int) -> float:
    """Seconds to wait before the next start after so many failures: none, then 1, 2, 4 … up to a minute."""
    if failures_in_a_row == 0:
        return 0.0
    return float(min(LONGEST_RESTART_PAUSE_SECONDS, FIRST_RESTART_PAUSE_SECONDS * 2 ** min(failures_in_a_row - 1, 10)))


def may_start(rollout: Rollout, now: float) -> bool:
    """Whether its next task may be started: not after it FAILED (API reference, rolloutState), nor within a pause."""
    return rollout.state != "FAILED" and now - rollout.last_failure_at >= restart_pause(rollout.failed_tasks)

"""The scheduler's possible actions, as frozen data: rolling_decisions and shift decide, `engine` acts."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_fargate.local.engine.state import Rollout

FIRST_RESTART_PAUSE_SECONDS = 1.0
# ECS waits up to 15 minutes; on a developer's machine, a fixed model should not have to wait that long.
LONGEST_RESTART_PAUSE_SECONDS = 60.0


@dataclass(frozen=True)
class StartTasks:
    rollout_id: str
    count: int


@dataclass(frozen=True)
class StopTask:
    """`is_failure`: the task failed, rather than being no longer needed; the circuit breaker counts failures."""

    task_arn: str
    reason: str
    is_failure: bool = False


@dataclass(frozen=True)
class CompleteRollout:
    rollout_id: str


@dataclass(frozen=True)
class FailRollout:
    """The circuit breaker trips, or these alarms ring; the service's settings determine whether it rolls back."""

    rollout_id: str
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True)
class WatchAlarms:
    """Watches these alarms during the rollout that begins."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class RollBack:
    """A rollback requested by the user: StopServiceDeployment with stopType ROLLBACK."""


@dataclass(frozen=True)
class ForgetRollout:
    """Removes an old rollout that has no tasks left."""

    rollout_id: str


@dataclass(frozen=True)
class NoteSteadiness:
    is_steady: bool


@dataclass(frozen=True)
class NoteStuck:
    """minimumHealthyPercent forbids stopping and maximumPercent starting tasks: nothing happens until one changes."""


@dataclass(frozen=True)
class Deactivate:
    """Deactivates a deleted service that has no tasks left."""


@dataclass(frozen=True)
class EnterStage:
    """Moves the current traffic shift to its next lifecycle stage."""

    stage: str


@dataclass(frozen=True)
class MoveTraffic:
    """Gives green these percentages of the production rule's and the test rule's traffic."""

    production_percent: float
    test_percent: float


@dataclass(frozen=True)
class OpenHook:
    """Pauses the stage until a user acts or the hook times out."""

    stage: str


@dataclass(frozen=True)
class TimeOutHook:
    """Ends a hook that timed out."""

    hook_id: str


Action = (
    StartTasks
    | StopTask
    | CompleteRollout
    | FailRollout
    | WatchAlarms
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
    """Returns the seconds to wait before the next start after this many failures: 0, then 1, 2, 4 … up to a minute."""
    if failures_in_a_row == 0:
        return 0.0
    return float(min(LONGEST_RESTART_PAUSE_SECONDS, FIRST_RESTART_PAUSE_SECONDS * 2 ** min(failures_in_a_row - 1, 10)))


def may_start(rollout: Rollout, now: float) -> bool:
    """Returns whether its next task can start: not after it FAILED (see rolloutState), nor during a pause."""
    return rollout.state != "FAILED" and now - rollout.last_failure_at >= restart_pause(rollout.failed_tasks)

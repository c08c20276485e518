"""Decides what a service deployment that shifts traffic needs next: pure functions, one stage after the other.

    scale up green next to blue · point the test rule to green · pause, if hooked · shift production traffic, in steps
    · bake · delete blue

Blue keeps its tasks until the end, so that a rollback only changes weights. On a service's first deployment there is no
blue: the stages are the same, without traffic steps and bake time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlflow_fargate.local.engine.actions import (
    Action,
    CompleteRollout,
    EnterStage,
    MoveTraffic,
    OpenHook,
    StartTasks,
    StopTask,
    TimeOutHook,
    may_start,
)
from mlflow_fargate.local.engine.shift.state import STAGES, Shift, ShiftRules
from mlflow_fargate.local.engine.state import Rollout, Service, Task


def decide_shift(
    service: Service, shift: Shift, tasks: Sequence[Task], now: float, minute_seconds: float
) -> tuple[Action, ...]:
    """Returns the actions that advance the shift by a step, and those that keep blue and green at their task counts."""
    return _Decider(service, shift, service.shift_rules, tasks, now, minute_seconds).actions()


@dataclass(frozen=True)
class _Decider:
    service: Service
    shift: Shift
    rules: ShiftRules
    tasks: Sequence[Task]
    now: float
    minute_seconds: float

    def actions(self) -> tuple[Action, ...]:
        return (*self._keep(), *self._advance())

    def _keep(self) -> tuple[Action, ...]:
        """Keeps the desired number of tasks: in blue until cleanup, in green from its scale-up on."""
        kept = []
        if self._is_before("CLEAN_UP"):
            kept.append(self.shift.blue_id)
        if not self._is_before("SCALE_UP"):
            kept.append(self.shift.green_id)
        return tuple(
            action for rollout in self.service.rollouts if rollout.id in kept for action in self._keep_count(rollout)
        )

    def _keep_count(self, rollout: Rollout) -> tuple[Action, ...]:
        own = [task for task in self._of(rollout.id) if task.is_wanted]
        missing = self.service.desired_count - len(own)
        if missing > 0:
            return (StartTasks(rollout.id, missing),) if may_start(rollout, self.now) else ()
        surplus = sorted(own, key=lambda task: (task.is_healthy(self.now), -task.created_at))[: -missing or 0]
        return _stop(surplus, self.shift.green_id)

    def _advance(self) -> tuple[Action, ...]:
        hook = self.shift.waiting_hook
        if hook is not None:
            return (TimeOutHook(hook.id),) if self.now >= hook.expires_at else ()
        if self._is_paused_here():
            return (OpenHook(self.shift.stage),)
        return self._work()

    def _is_paused_here(self) -> bool:
        stage = self.shift.stage
        return any(stage == paused for paused, _, _ in self.rules.pauses) and stage not in self.shift.paused_stages

    def _work(self) -> tuple[Action, ...]:
        work = {
            "RECONCILE_SERVICE": self._reconcile,
            "SCALE_UP": self._await_health,
            "TEST_TRAFFIC_SHIFT": self._move_test,
            "PRODUCTION_TRAFFIC_SHIFT": self._move_production,
            "BAKE_TIME": self._bake,
            "CLEAN_UP": self._clean_up,
        }
        return work.get(self.shift.stage, self._next)()

    def _reconcile(self) -> tuple[Action, ...]:
        """First cleans up after an abandoned deployment: its share of the traffic, then its tasks."""
        if self.shift.production_percent:
            return (MoveTraffic(0.0, 0.0),)
        staying = {self.shift.blue_id, self.shift.green_id}
        others = [task for task in self.tasks if task.rollout_id not in staying and not task.is_stopped]
        return _stop([task for task in others if task.is_wanted], self.shift.green_id) if others else self._next()

    def _await_health(self) -> tuple[Action, ...]:
        green = self._of(self.shift.green_id)
        healthy = sum(task.is_wanted and task.is_healthy(self.now) for task in green)
        return self._next() if healthy >= self.service.desired_count else ()

    def _move_test(self) -> tuple[Action, ...]:
        if self.shift.test_percent < 100:
            return (MoveTraffic(self.shift.production_percent, 100.0),)
        return self._next()

    def _bake(self) -> tuple[Action, ...]:
        return () if self._has_to_wait(self.rules.bake_minutes) else self._next()

    def _move_production(self) -> tuple[Action, ...]:
        shares = self.rules.shares if self.shift.blue_id else (100.0,)
        done = self.shift.production_percent
        if not self.shift.is_share_moved:
            return (MoveTraffic(next(share for share in shares if share > done), self.shift.test_percent),)
        if done >= 100:
            return self._next()
        if self._has_to_wait(self.rules.step_bake_minutes):
            return ()
        return (EnterStage("PRE_PRODUCTION_TRAFFIC_SHIFT"),)

    def _clean_up(self) -> tuple[Action, ...]:
        others = [task for task in self.tasks if task.rollout_id != self.shift.green_id and not task.is_stopped]
        if others:
            return _stop([task for task in others if task.is_wanted], self.shift.green_id)
        return (CompleteRollout(self.shift.green_id),)

    def _next(self) -> tuple[Action, ...]:
        return (EnterStage(STAGES[STAGES.index(self.shift.stage) + 1]),)

    def _has_to_wait(self, minutes: float) -> bool:
        return self.shift.blue_id is not None and self.now < self.shift.since + minutes * self.minute_seconds

    def _is_before(self, stage: str) -> bool:
        return STAGES.index(self.shift.stage) < STAGES.index(stage)

    def _of(self, rollout_id: str) -> list[Task]:
        return [task for task in self.tasks if task.rollout_id == rollout_id]


def _stop(tasks: Sequence[Task], green_id: str) -> tuple[Action, ...]:
    return tuple(StopTask(task.arn, f"Scaling activity initiated by (deployment {green_id})") for task in tasks)

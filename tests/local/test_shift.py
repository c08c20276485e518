"""Deployments that shift traffic, simulated without clocks, processes or AWS: complete ones, action by action."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_fargate.local.engine import transitions
from mlflow_fargate.local.engine.actions import (
    Action,
    CompleteRollout,
    EnterStage,
    FailRollout,
    ForgetRollout,
    MoveTraffic,
    OpenHook,
    RollBack,
    StartTasks,
    StopTask,
    TimeOutHook,
)
from mlflow_fargate.local.engine.rolling_decisions import decide
from mlflow_fargate.local.engine.shift import stage_transitions
from mlflow_fargate.local.engine.shift.state import STAGES, ShiftRules
from mlflow_fargate.local.engine.state import HEALTHY, REGISTERING, ContainerStatus, Service, Task

BLUE_GROUP, GREEN_GROUP = "arn:tg/first", "arn:tg/second"
BALANCER = {
    "targetGroupArn": BLUE_GROUP,
    "containerName": "model",
    "containerPort": 3000,
    "advancedConfiguration": {
        "alternateTargetGroupArn": GREEN_GROUP,
        "productionListenerRule": "arn:rule/production",
        "testListenerRule": "arn:rule/test",
        "roleArn": "arn:role",
    },
}
PAUSE = {
    "targetType": "PAUSE",
    "lifecycleStages": ["POST_TEST_TRAFFIC_SHIFT"],
    "timeoutConfiguration": {"timeoutInMinutes": 30, "action": "ROLLBACK"},
}
BREAKER = {"enable": True, "rollback": True, "thresholdConfiguration": {"type": "COUNT", "value": 3}}
CANARY = {"strategy": "CANARY", "canaryConfiguration": {"canaryPercent": 20.0, "canaryBakeTimeInMinutes": 2}}
LINEAR = {"strategy": "LINEAR", "linearConfiguration": {"stepPercent": 40.0, "stepBakeTimeInMinutes": 1}}


@dataclass
class Play:
    """A simulation of a service and its tasks; `turn` does what the engine would do, one second at a time."""

    service: Service
    tasks: dict[str, Task] = field(default_factory=dict)
    now: float = 0.0
    healthy: Callable[[Task], bool] = lambda task: True
    stages: list[str] = field(default_factory=list)
    shares: list[tuple[float, float]] = field(default_factory=list)  # when, and green's percent of the production

    @property
    def green(self) -> str:
        return self.service.rollouts[0].id

    @property
    def deployment(self) -> Any:
        return self.service.deployments[0]

    def of(self, rollout_id: str) -> list[Task]:
        return [task for task in self.tasks.values() if task.rollout_id == rollout_id and task.is_wanted]

    def turn(self) -> tuple[Action, ...]:
        self.now += 1
        for task in list(self.tasks.values()):
            if task.is_wanted and self.healthy(task):
                self.tasks[task.arn] = replace(task, targets=tuple((arn, HEALTHY) for arn, _ in task.targets))
        acts = decide(self.service, list(self.tasks.values()), self.now)
        for act in acts:
            self._do(act)
        return acts

    def run(self, until: Callable[[], bool], turns: int = 5000) -> None:
        for _ in range(turns):
            if until():
                return
            self.turn()
        raise AssertionError(f"the expected state was not reached; last stages: {self.stages[-5:]}")

    def run_to_the_end(self) -> None:
        self.run(lambda: bool(self.deployment.is_over))

    def begin(self, task_definition: str = "churn:2", **configuration: Any) -> None:
        if configuration:
            before = self.service.settings["deploymentConfiguration"]
            changed = {**self.service.settings, "deploymentConfiguration": {**before, **configuration}}
            self.service = replace(self.service, settings=changed)
        self.service = transitions.begin_rollout(self.service, task_definition, self.now)

    def answer(self, action: str) -> None:
        hook = self.service.shift.waiting_hook if self.service.shift else None
        assert hook is not None
        self.service = stage_transitions.answer_hook(self.service, hook.id, action, self.now)

    def _do(self, act: Action) -> None:  # one line an act
        match act:
            case StartTasks(rollout_id, count):
                for _ in range(count):
                    self._start(rollout_id)
            case StopTask(arn):
                self.tasks[arn] = replace(self.tasks[arn], desired_status="STOPPED", last_status="STOPPED")
            case EnterStage(stage):
                self.stages.append(stage)
                self.service = stage_transitions.enter_stage(self.service, stage, self.now)
            case MoveTraffic(production, test):
                self.shares.append((self.now, production))
                self.service = stage_transitions.move_traffic(self.service, production, test, self.now)
            case OpenHook(stage):
                self.service = stage_transitions.open_hook(self.service, stage, self.now, 60)
            case TimeOutHook(hook_id):
                self.service = stage_transitions.time_out_hook(self.service, hook_id, self.now)
            case CompleteRollout(rollout_id):
                self.service = transitions.complete_rollout(self.service, rollout_id, self.now)
            case FailRollout(rollout_id):
                self.shares.append((self.now, 0.0))
                self.service = transitions.fail_rollout(self.service, rollout_id, self.now)
            case RollBack():
                self.shares.append((self.now, 0.0))
                self.service = transitions.roll_back(self.service, self.deployment.reason, self.now)
            case ForgetRollout(rollout_id):
                self.service = transitions.forget_rollout(self.service, rollout_id)

    def _start(self, rollout_id: str) -> None:
        rollout = next(rollout for rollout in self.service.rollouts if rollout.id == rollout_id)
        arn = f"arn:task/c/{len(self.tasks)}"
        targets = tuple((group, REGISTERING) for group in rollout.revision.group_arns)
        self.tasks[arn] = Task(
            arn=arn,
            service_arn=self.service.arn,
            cluster_arn="arn:cluster",
            rollout_id=rollout_id,
            task_definition_arn=rollout.revision.task_definition_arn,
            family="churn",
            containers=(ContainerStatus("model", "image"),),
            cpu="256",
            memory="512",
            ip="172.31.0.10",
            subnet_id="subnet-1",
            created_at=self.now,
            last_status="RUNNING",
            started_at=self.now,
            targets=targets,
        )


def first_deployment(desired: int = 1, **configuration: Any) -> Play:
    """Returns a service that has not run yet."""
    settings = {
        "loadBalancers": [BALANCER],
        "healthCheckGracePeriodSeconds": 30,
        "deploymentConfiguration": {"deploymentCircuitBreaker": BREAKER, **configuration},
    }
    service = Service(
        arn="arn:aws:ecs:us-east-1:1:service/c/churn",
        name="churn",
        cluster_arn="arn:aws:ecs:us-east-1:1:cluster/c",
        status="ACTIVE",
        desired_count=desired,
        created_at=0.0,
        settings=settings,
    )
    play = Play(service)
    play.begin("churn:1")
    return play


def at_rest(desired: int = 1, **configuration: Any) -> Play:
    """Returns a service whose first version serves; its next deployment uses `configuration`."""
    play = first_deployment(desired, strategy="BLUE_GREEN")
    play.run_to_the_end()
    play.stages.clear()
    play.shares.clear()
    before = play.service.settings["deploymentConfiguration"]
    changed = {**play.service.settings, "deploymentConfiguration": {**before, **configuration}}
    play.service = replace(play.service, settings=changed)
    return play


def groups_of(tasks: Sequence[Task]) -> set[str]:
    return {arn for task in tasks for arn, _ in task.targets}


def test_a_blue_green_deployment_goes_through_the_stages_and_bakes() -> None:
    play = at_rest(2, strategy="BLUE_GREEN", bakeTimeInMinutes=5)
    play.begin()
    blue, green = play.service.rollouts[1].id, play.green
    play.run(lambda: play.stages[-1:] == ["BAKE_TIME"])
    (_, share), began = play.shares[-1], play.now

    assert (len(play.of(blue)), len(play.of(green)), share) == (2, 2, 100.0)
    assert groups_of(play.of(blue)).isdisjoint(groups_of(play.of(green)))

    play.run_to_the_end()

    assert play.stages == list(STAGES[1:])
    assert play.now - began >= 5 * 60
    assert play.deployment.status == "SUCCESSFUL"
    assert (len(play.of(blue)), len(play.of(green))) == (0, 2)


def test_a_canary_gets_its_share_for_its_bake_time_and_then_all_traffic() -> None:
    play = at_rest(**CANARY)
    play.begin()
    play.run_to_the_end()

    production = [(at, share) for at, share in play.shares if share]
    assert [share for _, share in production] == [20.0, 100.0]
    assert production[1][0] - production[0][0] >= 2 * 60
    assert play.stages.count("PRE_PRODUCTION_TRAFFIC_SHIFT") == 2


def test_a_linear_shift_takes_equal_steps_and_a_smaller_last_one() -> None:
    play = at_rest(**LINEAR)
    play.begin()
    play.run_to_the_end()

    assert [share for _, share in play.shares if share] == [40.0, 80.0, 100.0]


@pytest.mark.parametrize(
    ("step", "count"), [(100.0, 1), (50.0, 2), (33.4, 3), (33.3, 4), (10.0, 10), (3.0, 34), (99.9, 2)]
)
def test_a_linear_shift_has_as_many_steps_as_it_takes(step: float, count: int) -> None:
    rules = ShiftRules.from_configuration({"strategy": "LINEAR", "linearConfiguration": {"stepPercent": step}})

    assert (len(rules.shares), rules.shares[-1]) == (count, 100.0)
    assert list(rules.shares) == sorted(set(rules.shares))


def test_target_groups_alternate_and_a_first_deployment_uses_the_alternate_one() -> None:
    play = at_rest(strategy="BLUE_GREEN")
    used = [groups_of(play.of(play.green))]
    for number in (2, 3):
        play.begin(f"churn:{number}")
        play.run_to_the_end()
        used.append(groups_of(play.of(play.green)))

    assert used == [{GREEN_GROUP}, {BLUE_GROUP}, {GREEN_GROUP}]


def test_a_service_with_earlier_rolling_deployments_shifts_to_the_alternate_group() -> None:
    play = first_deployment(strategy="ROLLING")
    play.run_to_the_end()
    assert groups_of(play.of(play.green)) == {BLUE_GROUP}

    play.begin(strategy="BLUE_GREEN")
    play.run_to_the_end()

    assert groups_of(play.of(play.green)) == {GREEN_GROUP}
    assert play.deployment.status == "SUCCESSFUL"


def test_a_paused_deployment_keeps_test_traffic_on_green_until_it_is_continued() -> None:
    play = at_rest(strategy="BLUE_GREEN", lifecycleHooks=[PAUSE])
    play.begin()
    play.run(lambda: bool(play.service.shift and play.service.shift.waiting_hook))
    for _ in range(100):
        play.turn()
    shift = play.service.shift

    assert shift is not None
    assert (shift.stage, shift.test_percent, shift.production_percent) == ("POST_TEST_TRAFFIC_SHIFT", 100.0, 0.0)

    play.answer("CONTINUE")
    play.run_to_the_end()

    assert play.deployment.status == "SUCCESSFUL"
    assert [hook.status for hook in play.deployment.shift.hooks] == ["SUCCEEDED"]


def test_rolling_back_at_a_pause_gives_green_no_traffic() -> None:
    play = at_rest(strategy="BLUE_GREEN", lifecycleHooks=[PAUSE])
    blue = play.green
    play.begin()
    green = play.green
    play.run(lambda: bool(play.service.shift and play.service.shift.waiting_hook))
    play.answer("ROLLBACK")
    play.run_to_the_end()

    assert play.deployment.status == "ROLLBACK_SUCCESSFUL"
    assert "POST_TEST_TRAFFIC_SHIFT" in play.deployment.reason
    assert {share for _, share in play.shares} == {0.0}
    assert (len(play.of(blue)), len(play.of(green))) == (1, 0)
    assert play.service.primary is not None
    assert play.service.primary.id == blue


@pytest.mark.parametrize(("action", "status"), [("ROLLBACK", "ROLLBACK_SUCCESSFUL"), ("CONTINUE", "SUCCESSFUL")])
def test_a_pause_that_times_out_applies_its_timeout_action(action: str, status: str) -> None:
    hook = {**PAUSE, "timeoutConfiguration": {"timeoutInMinutes": 2, "action": action}}
    play = at_rest(strategy="BLUE_GREEN", lifecycleHooks=[hook])
    play.begin()
    began = play.now
    play.run_to_the_end()

    assert (play.deployment.status, play.deployment.shift.hooks[0].status) == (status, "TIMED_OUT")
    assert play.now - began >= 2 * 60


def test_a_hook_before_each_step_pauses_each_step() -> None:
    hook = {**PAUSE, "lifecycleStages": ["PRE_PRODUCTION_TRAFFIC_SHIFT"]}
    play = at_rest(**LINEAR, lifecycleHooks=[hook])
    play.begin()
    for _ in range(3):
        play.run(lambda: bool(play.service.shift and play.service.shift.waiting_hook))
        play.answer("CONTINUE")
    play.run_to_the_end()

    assert len(play.deployment.shift.hooks) == 3


def test_a_green_that_never_becomes_healthy_trips_the_breaker_and_gets_no_traffic() -> None:
    play = at_rest(strategy="BLUE_GREEN")
    blue = play.green
    play.begin()
    green = play.green
    play.healthy = lambda task: task.rollout_id == blue
    for _ in range(3):
        play.run(lambda: bool(play.of(green)))
        play.service = transitions.count_failure(play.service, green, play.now)
        play.tasks |= {task.arn: replace(task, last_status="STOPPED") for task in play.of(green)}
    play.run_to_the_end()

    assert play.deployment.status == "ROLLBACK_SUCCESSFUL"
    assert play.deployment.reason == transitions.BREAKER_ROLLED_BACK
    assert {share for _, share in play.shares} == {0.0}


def test_a_first_deployment_that_is_rejected_cannot_roll_back() -> None:
    play = first_deployment(strategy="BLUE_GREEN", lifecycleHooks=[PAUSE])
    play.run(lambda: bool(play.service.shift and play.service.shift.waiting_hook))
    play.answer("ROLLBACK")
    play.run_to_the_end()

    assert play.deployment.status == "ROLLBACK_FAILED"
    assert [share for _, share in play.shares if share] == []

    play.begin("churn:2")
    play.run(lambda: bool(play.service.shift and play.service.shift.waiting_hook))
    assert {task.rollout_id for task in play.tasks.values() if task.is_wanted} == {play.green}
    play.answer("CONTINUE")
    play.run_to_the_end()
    assert play.deployment.status == "SUCCESSFUL"


def test_a_superseded_deployment_first_returns_its_share_of_the_traffic() -> None:
    play = at_rest(**CANARY)
    blue = play.green
    play.begin()
    play.run(lambda: bool(play.service.shift and play.service.shift.production_percent == 20.0))
    abandoned = play.green
    play.begin("churn:3")
    play.run(lambda: play.stages[-1] == "PRE_SCALE_UP" and not play.of(abandoned))

    assert play.shares[-1][1] == 0.0
    assert (play.service.deployments[1].status, len(play.of(blue))) == ("STOPPED", 1)
    play.run_to_the_end()
    assert play.deployment.status == "SUCCESSFUL"


def test_tasks_of_blue_that_die_during_the_shift_are_replaced_in_blues_group() -> None:
    play = at_rest(strategy="BLUE_GREEN", lifecycleHooks=[PAUSE])
    blue = play.green
    play.begin()
    play.run(lambda: bool(play.service.shift and play.service.shift.waiting_hook))
    (task,) = play.of(blue)
    play.tasks[task.arn] = replace(task, last_status="STOPPED")
    play.turn()

    (replaced,) = play.of(blue)
    assert groups_of([replaced]) == groups_of([task])


def test_a_service_without_a_rollout_is_scaled_in_its_active_group() -> None:
    play = at_rest(strategy="BLUE_GREEN")
    serving = groups_of(play.of(play.green))
    play.service = replace(play.service, desired_count=3)
    play.run(lambda: len(play.of(play.green)) == 3)

    assert groups_of(play.of(play.green)) == serving
    assert len(play.service.deployments) == 1


SHIFTS = st.one_of(
    st.fixed_dictionaries({"strategy": st.just("BLUE_GREEN"), "bakeTimeInMinutes": st.integers(0, 5)}),
    st.fixed_dictionaries(
        {
            "strategy": st.just("CANARY"),
            "canaryConfiguration": st.fixed_dictionaries(
                {"canaryPercent": st.integers(1, 1000).map(lambda tenth: tenth / 10)},
                optional={"canaryBakeTimeInMinutes": st.integers(0, 3)},
            ),
        }
    ),
    st.fixed_dictionaries(
        {
            "strategy": st.just("LINEAR"),
            "linearConfiguration": st.fixed_dictionaries(
                {
                    "stepPercent": st.integers(30, 1000).map(lambda tenth: tenth / 10),
                    "stepBakeTimeInMinutes": st.integers(0, 2),
                }
            ),
        }
    ),
)


@settings(max_examples=60, deadline=None)
@given(configuration=SHIFTS, desired=st.integers(0, 3), kill_at=st.integers(1, 200))
def test_green_gets_production_traffic_only_while_all_of_it_is_healthy_and_blue_stays(
    configuration: dict[str, Any], desired: int, kill_at: int
) -> None:
    """For every strategy: shares only grow, each is one of the configured ones, and blue is deleted last."""
    play = at_rest(desired, **configuration)
    blue = play.green
    play.begin()
    green, rules, turns = play.green, play.service.shift_rules, 0
    while not play.deployment.is_over:
        turns += 1
        if turns == kill_at and play.of(blue):
            task = play.of(blue)[0]
            play.tasks[task.arn] = replace(task, last_status="STOPPED")
        for act in play.turn():
            if isinstance(act, MoveTraffic) and act.production_percent:
                assert sum(task.is_healthy(play.now) for task in play.of(green)) == desired
            if isinstance(act, StopTask) and play.tasks[act.task_arn].rollout_id == blue:
                assert play.shares[-1][1] == 100.0
        assert turns < 10_000

    moved = [share for _, share in play.shares if share]
    assert tuple(moved) == rules.shares
    assert play.deployment.status == "SUCCESSFUL"
    assert len(play.of(green)) == desired

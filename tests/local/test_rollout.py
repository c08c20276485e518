"""The scheduler's decisions, without clocks, processes or AWS: services and tasks in, actions out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_fargate.local.engine import transitions
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
    restart_pause,
)
from mlflow_fargate.local.engine.health import CheckHistory, CheckResult, judge, matches
from mlflow_fargate.local.engine.rolling_decisions import decide
from mlflow_fargate.local.engine.state import (
    HEALTHY,
    REGISTERING,
    ContainerStatus,
    DeploymentRules,
    Service,
    TargetHealth,
    Task,
)
from mlflow_fargate.local.moto_client import TargetGroupSettings

NOW = 1000.0
GROUP = "arn:tg"
UNHEALTHY = TargetHealth("unhealthy", "Target.Timeout", "Request timed out")
BREAKER = {"enable": True, "rollback": True}


def make_service(desired: int = 1, breaker: dict[str, Any] | None = None, **rules: Any) -> Service:
    """Returns a service with v1 COMPLETED and v2 in progress; `first` and `second` return their rollout IDs."""
    configuration = {"deploymentCircuitBreaker": breaker or BREAKER, **rules}
    service = Service(
        arn="arn:aws:ecs:us-east-1:1:service/c/churn",
        name="churn",
        cluster_arn="arn:aws:ecs:us-east-1:1:cluster/c",
        status="ACTIVE",
        desired_count=desired,
        created_at=0.0,
        settings={"deploymentConfiguration": configuration, "healthCheckGracePeriodSeconds": 30},
    )
    service = transitions.begin_rollout(service, "churn:1", 0.0)
    service = transitions.complete_rollout(service, service.rollouts[0].id, 1.0)
    return transitions.begin_rollout(service, "churn:2", 2.0)


def first(service: Service) -> str:
    return service.rollouts[-1].id


def second(service: Service) -> str:
    return service.rollouts[0].id


def make_task(rollout_id: str, number: int, health: TargetHealth | None = HEALTHY, **more: Any) -> Task:
    return replace(
        Task(
            arn=f"arn:task/c/{number}",
            service_arn="arn:aws:ecs:us-east-1:1:service/c/churn",
            cluster_arn="arn:cluster",
            rollout_id=rollout_id,
            task_definition_arn="churn:1",
            family="churn",
            containers=(ContainerStatus("model", "image"),),
            cpu="256",
            memory="512",
            ip="172.31.0.10",
            subnet_id="subnet-1",
            created_at=float(number),
            last_status="RUNNING",
            started_at=NOW - 10,
            targets=((GROUP, health),) if health else (),
        ),
        **more,
    )


def stops(acts: tuple[Action, ...]) -> list[str]:
    return [act.task_arn.rsplit("/", 1)[-1] for act in acts if isinstance(act, StopTask)]


# Rolling


def test_new_tasks_start_next_to_the_old_ones() -> None:
    service = make_service(2)
    tasks = [make_task(first(service), 1), make_task(first(service), 2)]

    assert decide(service, tasks, NOW) == (StartTasks(second(service), 2),)


def test_an_old_task_stops_for_each_healthy_new_one() -> None:
    service = make_service(2)
    old, new = first(service), second(service)
    tasks = [make_task(old, 1), make_task(old, 2), make_task(new, 3), make_task(new, 4, REGISTERING)]

    acts = decide(service, tasks, NOW)

    assert stops(acts) == ["1"]
    assert acts[0] == StopTask("arn:task/c/1", f"Scaling activity initiated by (deployment {new})")


def test_old_tasks_that_are_not_healthy_stop_first() -> None:
    service = make_service(1)
    tasks = [make_task(first(service), 1), make_task(first(service), 2, REGISTERING)]

    assert stops(decide(service, tasks, NOW)) == ["2"]


def test_if_maximum_percent_leaves_no_room_old_tasks_stop_first() -> None:
    service = make_service(2, minimumHealthyPercent=50, maximumPercent=100)
    tasks = [make_task(first(service), 1), make_task(first(service), 2)]

    assert stops(decide(service, tasks, NOW)) == ["1"]


def test_with_room_for_new_tasks_old_ones_keep_running_even_above_the_minimum() -> None:
    service = make_service(2, minimumHealthyPercent=50, maximumPercent=200)
    tasks = [make_task(first(service), 1), make_task(first(service), 2)]

    assert stops(decide(service, tasks, NOW)) == []


def test_a_rollout_that_can_neither_stop_nor_start_tasks_is_reported() -> None:
    service = make_service(1, minimumHealthyPercent=100, maximumPercent=100)

    assert decide(service, [make_task(first(service), 1)], NOW) == (NoteStuck(),)
    assert len(transitions.note_stuck(transitions.note_stuck(service, NOW), NOW).events) == len(service.events) + 1


def test_stopping_tasks_still_count() -> None:
    service = make_service(1)
    leaving = make_task(second(service), 2, desired_status="STOPPED", last_status="STOPPING")

    assert decide(service, [make_task(first(service), 1), leaving], NOW) == ()


def test_a_rollout_is_complete_when_all_new_tasks_are_healthy_and_no_old_one_is_left() -> None:
    service = make_service(1)
    new = second(service)
    draining = make_task(first(service), 1, desired_status="STOPPED", last_status="DEACTIVATING")

    assert decide(service, [draining, make_task(new, 2)], NOW) == ()
    assert decide(service, [replace(draining, last_status="STOPPED"), make_task(new, 2)], NOW) == (
        ForgetRollout(first(service)),
        CompleteRollout(new),
        NoteSteadiness(True),
    )


def test_without_target_groups_a_task_counts_as_healthy_after_forty_seconds() -> None:
    service = make_service(1)
    service = transitions.forget_rollout(service, first(service))
    task = make_task(second(service), 1, health=None, started_at=NOW)

    assert decide(service, [task], NOW + 39) == ()
    assert CompleteRollout(second(service)) in decide(service, [task], NOW + 40)


def test_scaling_in_keeps_the_oldest_healthy_tasks() -> None:
    service = make_service(1)
    new = second(service)
    service = transitions.forget_rollout(service, first(service))
    tasks = [make_task(new, 1, REGISTERING), make_task(new, 2), make_task(new, 3)]

    assert sorted(stops(decide(service, tasks, NOW))) == ["1", "3"]


def test_a_deleted_service_stops_its_tasks_and_then_is_inactive() -> None:
    service = transitions.begin_deletion(make_service(1), NOW)
    task = make_task(second(service), 1)

    assert stops(decide(service, [task], NOW)) == ["1"]
    assert decide(service, [replace(task, desired_status="STOPPED", last_status="STOPPING")], NOW) == ()
    assert decide(service, [replace(task, desired_status="STOPPED", last_status="STOPPED")], NOW) == (Deactivate(),)
    assert decide(transitions.deactivate(service), [], NOW) == ()


# Failing


def test_an_unhealthy_task_is_stopped_when_its_grace_period_is_over() -> None:
    service = make_service(1)
    task = make_task(second(service), 1, UNHEALTHY, started_at=NOW)

    assert stops(decide(service, [task], NOW + 29)) == []
    assert decide(service, [task], NOW + 30) == (
        StopTask("arn:task/c/1", f"Task failed ELB health checks in (target-group {GROUP})", is_failure=True),
    )


def test_pauses_between_restarts_grow_up_to_a_minute() -> None:
    assert [restart_pause(failures) for failures in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_no_task_starts_during_a_pause() -> None:
    service = make_service(1)
    service = transitions.count_failure(service, second(service), NOW)

    assert decide(service, [make_task(first(service), 1)], NOW + 0.5) == ()
    assert decide(service, [make_task(first(service), 1)], NOW + 1.0) == (StartTasks(second(service), 1),)


def test_the_breaker_trips_at_its_threshold_and_rolls_back() -> None:
    service = make_service(1, breaker={**BREAKER, "thresholdConfiguration": {"type": "COUNT", "value": 2}})
    old, new = first(service), second(service)
    service = transitions.count_failure(service, new, NOW)
    assert FailRollout(new) not in decide(service, [], NOW)
    service = transitions.count_failure(service, new, NOW)
    assert decide(service, [], NOW) == (FailRollout(new),)

    service = transitions.fail_rollout(service, new, NOW)

    assert [(rollout.id, rollout.status, rollout.state) for rollout in service.rollouts] == [
        (old, "PRIMARY", "IN_PROGRESS"),
        (new, "ACTIVE", "FAILED"),
    ]
    assert service.deployments[0].status == "ROLLBACK_IN_PROGRESS"
    assert transitions.complete_rollout(service, old, NOW).deployments[0].status == "ROLLBACK_SUCCESSFUL"


def test_a_rollback_starts_a_new_deployment_if_the_old_one_is_gone() -> None:
    service = make_service(1)
    old, new = first(service), second(service)
    service = transitions.forget_rollout(service, old)

    service = transitions.fail_rollout(service, new, NOW)

    assert service.primary is not None
    assert service.primary.id not in (old, new)
    assert service.primary.revision.task_definition_arn == "churn:1"


def test_a_healthy_task_resets_the_count_of_failures() -> None:
    service = make_service(1)
    service = transitions.count_failure(service, second(service), NOW)
    service = transitions.count_success(service, second(service))

    assert (service.rollouts[0].failed_tasks, service.rollouts[0].breaker_failures) == (0, 0)


def test_failures_add_up_if_a_healthy_task_does_not_reset_them() -> None:
    service = make_service(1, breaker={**BREAKER, "resetOnHealthyTask": False})
    service = transitions.count_failure(service, second(service), NOW)
    service = transitions.count_success(service, second(service))

    assert (service.rollouts[0].failed_tasks, service.rollouts[0].breaker_failures) == (0, 1)


def test_a_failed_first_rollout_cannot_roll_back_and_starts_no_more_tasks() -> None:
    service = replace(make_service(1), last_completed=None)
    service = transitions.forget_rollout(service, first(service))

    service = transitions.fail_rollout(service, second(service), NOW)

    assert service.deployments[0].status == "ROLLBACK_FAILED"
    assert service.rollouts[0].state == "FAILED"
    assert decide(service, [], NOW + 600) == ()


def test_without_rollback_the_old_tasks_stay_and_the_new_ones_are_abandoned() -> None:
    service = make_service(1, breaker={"enable": True, "rollback": False})

    service = transitions.fail_rollout(service, second(service), NOW)

    assert service.deployments[0].status == "STOPPED"
    assert stops(decide(service, [make_task(first(service), 1)], NOW)) == []


def test_a_newer_rollout_supersedes_the_one_in_progress() -> None:
    service = transitions.begin_rollout(make_service(1), "churn:3", NOW)

    assert [deployment.status for deployment in service.deployments] == ["IN_PROGRESS", "STOPPED", "SUCCESSFUL"]


def test_a_requested_rollback_is_carried_out() -> None:
    service = transitions.request_rollback(make_service(1), NOW)

    assert decide(service, [], NOW) == (RollBack(),)


@pytest.mark.parametrize(
    ("threshold", "desired", "expected"),
    [
        (None, 1, 3),
        (None, 10, 5),
        (None, 1000, 200),
        ({"type": "COUNT", "value": 3}, 10, 3),
        ({"type": "BOUNDED_PERCENT", "value": 20}, 100, 20),
        ({"type": "UNBOUNDED_PERCENT", "value": 50}, 1, 1),
    ],
)
def test_the_breaker_threshold_follows_ecs(threshold: dict[str, Any] | None, desired: int, expected: int) -> None:
    breaker = {"enable": True, "rollback": True, **({"thresholdConfiguration": threshold} if threshold else {})}
    rules = DeploymentRules.from_configuration({"deploymentCircuitBreaker": breaker})

    assert rules.failure_threshold(desired) == expected


@settings(max_examples=200, deadline=None)
@given(
    desired=st.integers(1, 5),
    minimum=st.integers(0, 100),
    extra=st.integers(0, 100),
    gets_healthy=st.lists(st.booleans(), max_size=4),
)
def test_a_rollout_ends_and_stays_within_its_limits(
    desired: int, minimum: int, extra: int, gets_healthy: list[bool]
) -> None:
    """Simulated to the end: tasks become healthy after a while, stopping ones are gone at the next step."""
    maximum = 100 + extra
    service = make_service(desired, minimumHealthyPercent=minimum, maximumPercent=maximum)
    tasks = {str(number): make_task(first(service), number) for number in range(desired)}
    can_move = desired * maximum // 100 > desired or -(-desired * minimum // 100) < desired
    for step in range(60):
        for act in decide(service, list(tasks.values()), NOW):
            service, tasks = play(service, tasks, act)
        healthy = sum(task.is_wanted and task.is_healthy(NOW) for task in tasks.values())
        assert healthy >= -(-desired * minimum // 100)
        assert sum(not task.is_stopped for task in tasks.values()) <= desired * maximum // 100
        luck = [*gets_healthy, True]
        tasks = {name: grow(task, luck[(step + int(name)) % len(luck)]) for name, task in tasks.items()}
    primary = service.primary

    assert primary is not None
    assert primary.state == ("COMPLETED" if can_move else "IN_PROGRESS")


def play(service: Service, tasks: dict[str, Task], act: Action) -> tuple[Service, dict[str, Task]]:
    match act:
        case StartTasks(rollout_id, count):
            for _ in range(count):
                tasks = {**tasks, str(len(tasks)): make_task(rollout_id, len(tasks), REGISTERING)}
        case StopTask(task_arn, _):
            name = task_arn.rsplit("/", 1)[-1]
            tasks = {**tasks, name: replace(tasks[name], desired_status="STOPPED")}
        case CompleteRollout(rollout_id):
            service = transitions.complete_rollout(service, rollout_id, NOW)
        case ForgetRollout(rollout_id):
            service = transitions.forget_rollout(service, rollout_id)
        case NoteSteadiness(is_steady):
            service = transitions.note_steadiness(service, is_steady, NOW)
    return service, tasks


def grow(task: Task, gets_healthy: bool) -> Task:
    if task.desired_status == "STOPPED":
        return replace(task, last_status="STOPPED")
    return replace(task, targets=((GROUP, HEALTHY),)) if gets_healthy else task


# Health checks


def group(**changes: Any) -> TargetGroupSettings:
    settings: dict[str, Any] = {
        "arn": GROUP,
        "health_path": "/",
        "interval_seconds": 5.0,
        "timeout_seconds": 2.0,
        "healthy_threshold": 2,
        "unhealthy_threshold": 3,
        "matcher": "200",
        "deregistration_delay_seconds": 0.0,
    }
    return TargetGroupSettings(**{**settings, **changes})


def states(*results: CheckResult) -> list[str]:
    history, seen = CheckHistory(), []
    for result in results:
        history = judge(history, result, group())
        seen.append(history.health.state)
    return seen


PASSED, REFUSED = CheckResult(200), CheckResult()


def test_a_new_target_needs_one_passing_check() -> None:
    assert states(REFUSED, REFUSED, PASSED) == ["initial", "initial", "healthy"]


def test_an_unhealthy_target_needs_as_many_passing_checks_as_the_threshold() -> None:
    assert states(REFUSED, REFUSED, REFUSED, PASSED, PASSED)[2:] == ["unhealthy", "unhealthy", "healthy"]


def test_a_healthy_target_fails_after_the_unhealthy_threshold() -> None:
    assert states(PASSED, REFUSED, REFUSED, PASSED, REFUSED, REFUSED, REFUSED)[1:] == [
        *["healthy"] * 5,
        "unhealthy",
    ]


@pytest.mark.parametrize(
    ("result", "reason", "description"),
    [
        (CheckResult(503), "Target.ResponseCodeMismatch", "Health checks failed with these codes: [503]"),
        (CheckResult(timed_out=True), "Target.Timeout", "Request timed out"),
        (CheckResult(), "Target.FailedHealthChecks", "Health checks failed"),
    ],
)
def test_an_unhealthy_target_has_a_reason(result: CheckResult, reason: str, description: str) -> None:
    health = judge(CheckHistory(), result, group(unhealthy_threshold=1)).health

    assert (health.reason, health.description) == (reason, description)


@pytest.mark.parametrize(
    ("matcher", "status", "expected"),
    [("200", 200, True), ("200,202", 202, True), ("200-299", 250, True), ("200-299", 302, False), ("200", 404, False)],
)
def test_matchers(matcher: str, status: int, expected: bool) -> None:
    assert matches(matcher, status) is expected

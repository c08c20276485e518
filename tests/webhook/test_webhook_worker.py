"""Tests the worker and its threads, with deployments and a registry in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from mlflow.exceptions import MlflowException

from mlflow_fargate.errors import AwsError, RolloutFailed
from mlflow_fargate.webhook.control_loop.worker import Timing, Worker
from mlflow_fargate.webhook.http.status import status_of
from mlflow_fargate.webhook.lease import LeaseKeeper
from support.webhook_fakes import FakeDeployments, FakeRegistry

WaitUntil = Callable[[Callable[[], bool]], None]


def wait_for(event: threading.Event) -> None:
    assert event.wait(5)


def test_it_polls_at_startup_and_deploys_the_registrys_version(
    worker: Worker, deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    deployments.deploy("api", "churn", "1")
    deployments.deploy("same", "churn", "3")
    deployments.deploy("fixed", "churn", "1", follow="pinned")
    deployments.deploy("best", "fraud", "1", follow="@champion")
    registry.promote("churn", "3")
    registry.alias("fraud", "champion", "2")
    worker.start()
    wait_until(lambda: len(deployments.updates) == 2 and not deployments.running)

    assert sorted(deployments.updates) == [("api", "models:/churn/3"), ("best", "models:/fraud/2")]
    assert deployments.version("fixed") == "1"


def test_a_hint_triggers_a_poll_now(
    worker: Worker, deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "1")
    worker.start()
    wait_until(lambda: worker.is_ready)
    registry.promote("churn", "2")

    assert worker.hint("churn")
    wait_until(lambda: deployments.version("api") == "2")


def test_an_event_about_a_deployment_newer_than_the_last_poll_triggers_a_poll(
    worker: Worker, deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "1")
    worker.start()
    wait_until(lambda: worker.is_ready)

    deployments.deploy("new", "other", "1")
    registry.promote("other", "2")

    assert not worker.hint("other")
    wait_until(lambda: deployments.version("new") == "2")


def test_events_about_unknown_models_do_not_cause_a_poll_each(
    deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    timing = Timing(poll_seconds=3600, rest_seconds=0.2)
    worker = Worker(connect=lambda: deployments, registry=registry, timing=timing)
    worker.start()
    wait_until(lambda: worker.is_ready)
    for _ in range(100):
        worker.hint("other")
        time.sleep(0.005)
    polls = deployments.lists
    worker.stop(10)

    assert 2 <= polls <= 10


def test_many_hints_cause_few_polls_and_one_update(
    worker: Worker, deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "1")
    worker.start()
    wait_until(lambda: worker.is_ready)
    go_on = threading.Event()
    deployments.on_update = lambda name: wait_for(go_on)
    registry.promote("churn", "2")
    for _ in range(200):
        worker.hint("churn")
    wait_until(lambda: bool(deployments.running))
    for _ in range(200):
        worker.hint("churn")
    registry.promote("churn", "3")
    go_on.set()
    wait_until(lambda: deployments.version("api") == "3")

    assert deployments.updates == [("api", "models:/churn/2"), ("api", "models:/churn/3")]
    assert deployments.most_at_once == {"api": 1}
    assert deployments.lists < 100


def test_deployments_do_not_wait_for_each_other(
    worker: Worker, deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    together = threading.Barrier(3)

    def meet(name: str) -> None:
        together.wait(5)

    deployments.on_update = meet
    for name in ("a", "b"):
        deployments.deploy(name, "churn", "1")
    registry.promote("churn", "2")
    worker.start()
    together.wait(5)
    wait_until(lambda: deployments.version("a") == deployments.version("b") == "2")


def test_without_hints_it_polls_periodically(
    deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    worker = Worker(connect=lambda: deployments, registry=registry, timing=Timing(poll_seconds=0.02))
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "1")
    worker.start()
    wait_until(lambda: deployments.lists > 3)
    registry.promote("churn", "2")
    wait_until(lambda: deployments.version("api") == "2")

    assert worker.stop(5)


def test_a_registry_outage_changes_nothing_and_is_reported_without_the_password(
    deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    worker = Worker(connect=lambda: deployments, registry=registry, timing=Timing(poll_seconds=0.02))
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "2")
    registry.error = MlflowException("API request to http://me:hunter2@host/api failed")
    worker.start()
    wait_until(lambda: registry.looks > 2)

    assert (deployments.updates, worker.is_ready, worker.is_alive) == ([], False, True)
    assert status_of(worker)["error"] == "MlflowException: API request to http://host/api failed"
    registry.error = None
    wait_until(lambda: deployments.version("api") == "2")
    wait_until(lambda: status_of(worker)["error"] is None)
    assert worker.stop(5)


@pytest.mark.parametrize(
    "error",
    [
        RolloutFailed("it went back"),
        AwsError("no", operation="ecs:UpdateService", code="AccessDenied"),
        ZeroDivisionError(),
    ],
)
def test_a_failed_update_is_not_retried_at_once_and_others_continue(
    worker: Worker, deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil, error: Exception
) -> None:
    def fail(name: str) -> None:
        if name == "bad":
            raise error

    deployments.on_update = fail
    deployments.deploy("bad", "churn", "1")
    deployments.deploy("good", "churn", "1")
    registry.promote("churn", "2")
    worker.start()
    wait_until(lambda: deployments.version("good") == "2")
    for _ in range(5):
        worker.hint("churn")
        time.sleep(0.02)

    assert deployments.updates.count(("bad", "models:/churn/2")) == 1
    action = next(one for one in status_of(worker)["deployments"] if one["name"] == "bad")["action"]
    assert action["kind"] == ("blocked" if isinstance(error, RolloutFailed) else "hold")
    assert type(error).__name__ in action["warning"]
    deployments.on_update = lambda name: None
    assert not worker.retry("nobody") and worker.retry("bad")
    wait_until(lambda: deployments.version("bad") == "2")


def test_a_failed_update_is_retried_after_its_backoff(
    deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    now = [1000.0]
    worker = Worker(
        connect=lambda: deployments, registry=registry, timing=Timing(poll_seconds=0.02, clock=lambda: now[0])
    )
    left = [MlflowException("busy")]

    def fail_once(name: str) -> None:
        if left:
            raise left.pop()

    deployments.on_update = fail_once
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "2")
    worker.start()
    wait_until(lambda: len(deployments.updates) == 1 and deployments.lists > 5)
    assert deployments.version("api") == "1"
    now[0] += 61
    wait_until(lambda: deployments.version("api") == "2")

    assert worker.stop(5)


def test_several_versions_in_a_stage_cause_a_warning_before_the_update(
    worker: Worker, deployments: FakeDeployments, registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "2", "3")
    worker.look()

    assert "versions 2, 3 are all in Production" in caplog.text


def test_a_stop_waits_for_running_changes_and_starts_no_more(
    worker: Worker, deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    go_on = threading.Event()
    deployments.on_update = lambda name: wait_for(go_on)
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "2")
    worker.start()
    wait_until(lambda: bool(deployments.running))

    assert not worker.stop(0.05)
    registry.promote("churn", "3")
    go_on.set()
    assert worker.stop(5)
    assert deployments.updates == [("api", "models:/churn/2")]


def test_a_standby_replica_polls_and_waits(
    deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    may_act = threading.Event()
    worker = Worker(
        connect=lambda: deployments,
        registry=registry,
        may_act=may_act.is_set,
        timing=Timing(poll_seconds=3600, rest_seconds=0.02),
    )
    deployments.deploy("api", "churn", "1")
    registry.promote("churn", "2")
    worker.start()
    wait_until(lambda: worker.is_ready)

    assert worker.seen()["api"].action.reason == "another replica is active"
    assert deployments.updates == []
    may_act.set()
    worker.wake()
    wait_until(lambda: deployments.version("api") == "2")
    worker.stop(5)


class FakeLease:
    def __init__(self) -> None:
        self.answers: list[bool | Exception] = [False, RuntimeError("S3 is down"), True]
        self.is_held = False
        self.released = False

    def renew(self) -> bool:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        self.is_held = answer
        return answer

    def release(self) -> None:
        self.released = True


def test_a_lease_is_retried_until_acquired_and_released_at_the_end() -> None:
    lease, taken = FakeLease(), threading.Event()
    keeper = LeaseKeeper(lease, 0.03, taken.set)
    keeper.start()

    wait_for(taken)
    keeper.stop(5)
    assert lease.released

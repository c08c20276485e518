"""`create` on a name that is taken: it never changes what was rolled out once, and finishes what never was."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.reading.history import has_completed
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployments import operations
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import AwsError, DeploymentExists, InvalidOption, RolloutFailed
from support.deployer import CRASHING, QUICK, count_writes, create

URI = "models:/churn/Production"
NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)
OPTIONS = {"cpu": 256, "memory": 512, "environment.VERSION": "1"}
SHIFTING = {"bake_time_minutes": 0, "test_green": False}
CANARY = {"strategy": "canary", "canary_percent": 40, "canary_bake_time_minutes": 30, **SHIFTING}
BAKING = {"strategy": "blue_green", "bake_time_minutes": 30, "test_green": False}
PAUSING = {"strategy": "blue_green", "bake_time_minutes": 0, "test_timeout_minutes": 500}


def refused(deployer: Deployer, **options: Any) -> None:
    """Create is refused in one sentence with the way on, and neither writes nor changes anything."""
    before = deployer.get("churn")

    def again(counted: Deployer) -> None:
        with pytest.raises(DeploymentExists) as caught:
            counted.create("churn", URI, None, NamedOptions(options))
        assert caught.value.error_code == "RESOURCE_ALREADY_EXISTS"
        sentence, _, hint = str(caught.value.message).partition("\n  hint: ")
        assert sentence.startswith("There is already a deployment 'churn'") and "\n" not in sentence
        assert "mlflow deployments update" in hint

    assert count_writes(deployer, again) == Counter()
    after = deployer.get("churn")
    assert (after.settings, after.task_definition, after.follow) == (
        before.settings,
        before.task_definition,
        before.follow,
    )


def begin(deployer: Deployer, **options: Any) -> None:
    deployer.update("churn", URI, None, NamedOptions({"wait": False, **options}))


@pytest.mark.slow
class TestRolledOutOnce:
    def test_it_is_refused_during_a_rolling_update(self, deployer: Deployer) -> None:
        create(deployer, **OPTIONS)
        begin(deployer, **{"environment.MODE": "never"})

        assert deployer.get("churn").state == "IN_PROGRESS"
        refused(deployer, auth="api_key")
        refused(deployer, **QUICK, **OPTIONS)

    def test_it_is_refused_while_a_failed_rollout_goes_back_and_afterwards(self, deployer: Deployer) -> None:
        create(deployer, **OPTIONS)
        begin(deployer, **{"environment.MODE": "crash"})
        for _ in range(3):
            refused(deployer)
        with pytest.raises(RolloutFailed):
            operations.watch(deployer, "churn", 60)
        refused(deployer)

    @pytest.mark.parametrize(
        ("strategy", "state"), [(BAKING, "IN_PROGRESS"), (CANARY, "IN_PROGRESS"), (PAUSING, "IN_PROGRESS")]
    )
    def test_it_is_refused_while_traffic_shifts_or_waits_for_a_test(
        self, deployer: Deployer, strategy: dict[str, Any], state: str
    ) -> None:
        create(deployer, **OPTIONS)
        begin(deployer, **strategy, **{"environment.VERSION": "2"})

        assert deployer.get("churn").state == state
        refused(deployer, auth="api_key")

    def test_it_is_refused_without_tasks_also_during_a_rollout(self, deployer: Deployer) -> None:
        create(deployer, **OPTIONS)
        operations.scale(deployer, "churn", 0)
        refused(deployer)
        begin(deployer, desired_count=1, **{"environment.MODE": "never"})
        operations.scale(deployer, "churn", 0, NamedOptions({"wait": False}))
        refused(deployer)

    def test_it_is_refused_where_the_history_may_not_be_read(
        self, deployer: Deployer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create(deployer, **OPTIONS)
        begin(deployer, **{"environment.MODE": "never"})
        deny_history(deployer, monkeypatch)

        refused(deployer)

    def test_another_model_is_refused_even_if_the_first_rollout_is_not_over(self, deployer: Deployer) -> None:
        create(deployer, wait=False, **{"environment.MODE": "never"})

        with pytest.raises(DeploymentExists):
            create(deployer, uri=CRASHING)

    def test_what_completes_while_another_image_is_built_is_not_changed(
        self, deployer: Deployer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create(deployer, desired_count=0, wait=False)
        looks = iter([False, True])
        monkeypatch.setattr(type(deployer.endpoint), "was_rolled_out", lambda *_: next(looks))

        with pytest.raises(DeploymentExists):
            create(deployer, cpu=512, memory=1024)
        assert "cpu" not in deployer.get("churn").settings


def deny_history(deployer: Deployer, monkeypatch: pytest.MonkeyPatch) -> None:
    call = AwsSession.call

    def denied(session: AwsSession, *operation: str, **request: Any) -> Any:
        if "list_service_deployments" in operation:
            raise AwsError("no", operation="ecs:ListServiceDeployments", code="AccessDeniedException")
        return call(session, *operation, **request)

    monkeypatch.setattr(AwsSession, "call", denied)


class Killed(BaseException):
    """What kill -9 is to a process."""


def kill_after_create_service(deployer: Deployer, options: dict[str, Any]) -> None:
    """A create that dies right after its service was created."""

    def die(**_: Any) -> None:
        raise Killed

    account = Account(deployer.target)
    account.session._session.events.register("after-call.ecs.CreateService", die)
    with pytest.raises(Killed):
        replace(deployer, account=account).create("churn", URI, None, NamedOptions({**QUICK, **options}))


@pytest.mark.slow
class TestNeverRolledOut:
    @pytest.mark.parametrize("strategy", [{}, {"strategy": "blue_green", **SHIFTING}])
    def test_the_same_command_finishes_it_and_keeps_what_it_does_not_name(
        self, deployer: Deployer, strategy: dict[str, Any]
    ) -> None:
        first = {**OPTIONS, **strategy, "follow": "@champion", "desired_count": 2, "environment.MODE": "never"}
        kill_after_create_service(deployer, first)
        assert deployer.get("churn").state == "IN_PROGRESS"

        deployer.create("churn", URI, None, NamedOptions({"environment.MODE": "calm", "cpu": 256, "memory": 1024}))

        status = deployer.get("churn")
        assert (status.state, status.running_count, status.follow) == ("COMPLETED", 2, "@champion")
        assert (status.settings.cpu, status.settings.memory_mib, status.settings.auth) == (256, 1024, "none")
        assert status.settings.environment == {"VERSION": "1", "MODE": "calm"}
        assert status.strategy == strategy.get("strategy", "rolling")
        refused(deployer, auth="api_key")

    def test_one_that_autoscaling_counts_is_finished_by_the_same_command(self, deployer: Deployer) -> None:
        options = {"max_count": 3, "desired_count": 2, "environment.MODE": "never", "timeout_seconds": 1}
        kill_after_create_service(deployer, options)

        deployer.create("churn", URI, None, NamedOptions({**QUICK, **options, "wait": False}))

        assert deployer.preview("churn", None, None, NamedOptions())[0].is_empty

    def test_what_ecs_cannot_change_is_said(self, deployer: Deployer) -> None:
        kill_after_create_service(
            deployer, {"strategy": "blue_green", "test_green": False, "environment.MODE": "never"}
        )

        with pytest.raises(InvalidOption, match="delete the deployment and create it again"):
            deployer.create("churn", URI, None, NamedOptions({"strategy": "rolling"}))

    def test_a_completed_one_of_that_name_that_was_deleted_does_not_count(self, deployer: Deployer) -> None:
        create(deployer, **OPTIONS)
        deployer.delete("churn")
        kill_after_create_service(deployer, {"environment.MODE": "never"})

        deployer.create("churn", URI, None, NamedOptions({"environment.MODE": "calm"}))

        assert deployer.get("churn").state == "COMPLETED"


def at(days: float, **more: Any) -> dict[str, Any]:
    return {"createdAt": NOW - timedelta(days=days), **more}


RUNNING = [{"status": "PRIMARY", "rolloutState": "IN_PROGRESS"}]


@pytest.mark.parametrize(
    ("service", "records", "answer"),
    [
        (at(1, deployments=RUNNING), [], False),
        (
            at(1, deployments=[{"status": "PRIMARY", "rolloutState": "FAILED"}]),
            [at(1, status="ROLLBACK_FAILED")],
            False,
        ),
        (at(1, deployments=[{"status": "PRIMARY", "rolloutState": "COMPLETED"}]), [], True),
        (at(1, deployments=[*RUNNING, {"status": "ACTIVE", "rolloutState": "COMPLETED"}]), [], True),
        (at(1, deployments=RUNNING), [at(0.5, status="SUCCESSFUL")], True),
        (at(1, deployments=RUNNING), [at(0.5, status="ROLLBACK_SUCCESSFUL")], True),
        (
            at(1, deployments=RUNNING),
            [at(0.5, status=status) for status in ("STOPPED", "PENDING", "IN_PROGRESS")],
            False,
        ),
        (at(1, deployments=RUNNING), [at(1 + 1e-9, status="SUCCESSFUL")], True),
        (at(1, deployments=RUNNING), [at(1.1, status="SUCCESSFUL")], False),  # of a service that was deleted
        (at(91, deployments=RUNNING), [], True),  # ECS has forgotten
        (at(1), [], False),
    ],
)
def test_history_decides_not_the_moment(service: dict[str, Any], records: list[dict[str, Any]], answer: bool) -> None:
    assert has_completed(service, records, NOW) is answer

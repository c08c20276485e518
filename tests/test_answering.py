"""A command reports a new version as soon as it answers, and can leave the old tasks to ECS."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.rollouts.new_tasks import NewTasks
from mlflow_fargate.cli import main
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.progress import RecordedProgress
from support.deployer import TARGET, answer, create


class TasksSession:
    """A target group and the tasks of a service: by address, whether it is healthy, and the rollout that started it."""

    def __init__(self, **tasks: tuple[bool, str]) -> None:
        self.tasks = tasks
        self.calls: Counter[str] = Counter()

    def pages(self, service: str, operation: str, key: str, /, **parameters: Any) -> list[str]:
        self.calls[operation] += 1
        return list(self.tasks)

    def call(self, service: str, operation: str, /, **parameters: Any) -> dict[str, Any]:
        self.calls[operation] += 1
        if operation == "describe_tasks":
            return {"tasks": [_task(address, self.tasks[address][1]) for address in parameters["tasks"]]}
        states = {address: "healthy" if is_healthy else "initial" for address, (is_healthy, _) in self.tasks.items()}
        described = [{"Target": {"Id": name}, "TargetHealth": {"State": state}} for name, state in states.items()]
        return {"TargetHealthDescriptions": described}


def _task(address: str, rollout: str) -> dict[str, Any]:
    return {"startedBy": rollout, "containers": [{"networkInterfaces": [{"privateIpv4Address": address}]}]}


def test_only_healthy_tasks_of_the_rollout_count_and_tasks_are_read_when_an_unknown_target_is_healthy() -> None:
    session = TasksSession(old=(True, "ecs-svc/1"), new=(False, "ecs-svc/2"))
    tasks = NewTasks(session, "cluster", "churn", "ecs-svc/2")  # type: ignore[arg-type]

    assert [tasks.healthy_count("arn:group") for _ in range(3)] == [0, 0, 0]
    session.tasks["new"] = (True, "ecs-svc/2")
    session.tasks["later"] = (True, "ecs-svc/2")
    assert [tasks.healthy_count("arn:group") for _ in range(3)] == [2, 2, 2]

    assert session.calls == {"describe_target_health": 6, "list_tasks": 2, "describe_tasks": 2}


def observed(deployer: Deployer) -> tuple[Deployer, Counter[str]]:
    """Returns the deployer with its own account object, and the calls that it makes below boto3."""
    seen: Counter[str] = Counter()
    account = Account(deployer.target)
    account.session._session.events.register("before-call.*", lambda model, **_: seen.update([model.name]))
    return replace(deployer, account=account, progress=RecordedProgress()), seen


@pytest.mark.slow
def test_an_update_reports_the_new_version_before_the_old_task_has_drained(deployer: Deployer) -> None:
    create(deployer, deregistration_delay_seconds=6, desired_count=0)

    client, seen = observed(deployer)
    lines: list[str] = client.progress.lines  # type: ignore[attr-defined]
    client.update("churn", None, None, NamedOptions({"desired_count": 1}))
    assert not any("answers" in line for line in lines)
    client.update("churn", "models:/churn/2", None, NamedOptions({"environment.VERSION": "2"}))

    assert lines.count("version 2 answers") == 1
    assert lines.index("version 2 answers") < next(number for number, line in enumerate(lines) if "completed." in line)
    assert lines[-2].startswith("churn is at http")
    assert seen["ListTasks"] == seen["DescribeTasks"] <= 3, seen


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [{}, {"strategy": "blue_green", "bake_time_minutes": 20, "test_green": False}])
def test_without_waiting_for_the_drain_an_update_leaves_once_the_new_version_answers(
    deployer: Deployer, strategy: dict[str, Any]
) -> None:
    create(deployer, deregistration_delay_seconds=5, **strategy)

    client, _ = observed(deployer)
    options = {"environment.VERSION": "2", "wait_for_drain": False}
    status = client.update("churn", "models:/churn/2", None, NamedOptions(options))

    assert status
    assert (status.state, status.provenance.version) == ("IN_PROGRESS", "2")
    assert answer(status.url)["environment"]["VERSION"] == "2"
    lines: list[str] = client.progress.lines  # type: ignore[attr-defined]
    assert "version 2 answers" in lines
    assert "wait_for_drain" not in client.get("churn").settings.named


@pytest.mark.slow
def test_the_status_during_a_canary_shows_both_versions_with_their_shares(plugged_in: Deployer) -> None:
    canary = {"strategy": "canary", "canary_percent": 10, "canary_bake_time_minutes": 60, "test_green": False}
    create(plugged_in, **canary)
    assert plugged_in.get("churn").traffic_shares == {}
    plugged_in.update("churn", "models:/churn/2", None, NamedOptions({"wait": False}))

    shares: dict[str, float] = {}
    for _ in range(300):
        shares = dict(plugged_in.get("churn").traffic_shares)
        if shares.get("version 2"):
            break
        time.sleep(0.2)
    shown = CliRunner().invoke(main, ["status", "-t", TARGET, "--name", "churn"])

    assert shares == {"version 1": 90, "version 2": 10}
    assert "90% on version 1, 10% on version 2" in shown.output
    plugged_in.delete("churn")

"""DescribeServices answers as of one to six calls earlier, below boto3: what ECS returned to our own call decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.httpsession import URLLib3Session

from mlflow_fargate.aws.account import Account
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployments import operations
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.deployments.roll_back import roll_back
from mlflow_fargate.errors import RolloutFailed, RolloutReplaced
from mlflow_fargate.progress import RecordedProgress
from support.deployer import CRASHING, create

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LAGS = [pytest.param(lag, marks=[] if lag in (1, 6) else pytest.mark.exhaustive) for lag in range(1, 7)]

CRASH = {"environment.MODE": "crash"}


@dataclass
class Lag:
    """Answers DescribeServices as of `calls` calls earlier."""

    calls: int
    answers: list[AWSResponse] = field(default_factory=list)

    def watch(self, account: Account) -> None:
        account.session._session.events.register_first("before-send.ecs.DescribeServices", self._answer)

    def _answer(self, request: Any, **_: Any) -> AWSResponse:
        answer = URLLib3Session().send(request)
        assert answer.content  # read while the connection is open
        self.answers.append(answer)
        return self.answers[max(0, len(self.answers) - 1 - self.calls)]


@dataclass
class Client:
    """A deployer whose reads lag, and the status tag that it wrote last on each version."""

    deployer: Deployer
    statuses: dict[str, str] = field(default_factory=dict)

    def write_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        self.statuses[version] = next(value for key, value in tags.items() if key.endswith(".status"))


def lagging(deployer: Deployer, calls: int) -> Client:
    account = Account(deployer.target, sleep=pause)
    Lag(calls).watch(account)
    client = Client(replace(deployer, account=account, progress=RecordedProgress(), sleep=pause))
    client.deployer = replace(client.deployer, write_tags=client.write_tags)
    return client


def pause(seconds: float) -> None:
    time.sleep(min(seconds, 0.2))


def update(deployer: Deployer, uri: str | None, **options: Any) -> None:
    deployer.update("churn", uri, None, NamedOptions(options))


def deployed(deployer: Deployer) -> tuple[str | None, str, int]:
    status = replace(deployer, account=Account(deployer.target)).get("churn")
    return status.provenance.version, status.state, status.desired_count


@pytest.mark.parametrize("lag", LAGS)
def test_a_creation_and_an_update_that_lag_are_complete_when_they_say_so(deployer: Deployer, lag: int) -> None:
    client = lagging(deployer, lag)

    create(client.deployer, uri="models:/churn/1")
    assert deployed(deployer) == ("1", "COMPLETED", 1)
    assert not client.statuses["1"].startswith("failed")

    client = lagging(deployer, lag)
    update(client.deployer, "models:/churn/2")
    assert deployed(deployer) == ("2", "COMPLETED", 1)
    assert not client.statuses["2"].startswith("failed")

    client = lagging(deployer, lag)
    assert operations.scale(client.deployer, "churn", 2).desired_count == 2
    assert deployed(deployer) == ("2", "COMPLETED", 2)
    running = [task for task in deployer.endpoint.tasks("churn") if task.state == "RUNNING"]
    assert len(running) == 2


@pytest.mark.parametrize("lag", LAGS)
def test_a_crashing_update_that_lags_fails_and_a_rollback_is_complete(deployer: Deployer, lag: int) -> None:
    create(deployer, uri="models:/churn/1")
    client = lagging(deployer, lag)
    with pytest.raises(RolloutFailed, match="the previous version are still serving"):
        update(client.deployer, CRASHING, **CRASH)
    assert client.statuses["13"].startswith("failed")
    assert set(client.statuses) == {"13"}

    update(deployer, "models:/churn/2", **{"environment.MODE": "well"})
    client = lagging(deployer, lag)
    roll_back(client.deployer, "churn")
    assert deployed(deployer) == ("1", "COMPLETED", 1)
    assert not client.statuses["1"].startswith("failed")


@pytest.mark.parametrize("lag", [0, 3])
def test_an_update_that_another_one_replaces_says_so_and_does_not_blame_the_version(
    deployer: Deployer, lag: int
) -> None:
    create(deployer, uri="models:/churn/1")
    client = lagging(deployer, lag)
    after_the_update(client.deployer, lambda: update(deployer, "models:/churn/3", wait=False))

    with pytest.raises(RolloutReplaced, match=r"revision 3 replaces this one"):
        update(client.deployer, "models:/churn/2")

    assert client.statuses == {}
    assert deployed(deployer)[0] == "3"


def after_the_update(deployer: Deployer, act: Callable[[], None]) -> None:
    """Calls `act` once, as soon as ECS has answered the deployer's UpdateService."""
    done: list[bool] = []

    def once(**_: Any) -> None:
        if not done:
            done.append(True)
            act()

    deployer.account.session._session.events.register("after-call.ecs.UpdateService", once)


def test_a_first_rollout_that_fails_names_no_previous_version(deployer: Deployer) -> None:
    with pytest.raises(RolloutFailed, match="Nothing is serving now"):
        create(deployer, uri=CRASHING, **CRASH)

"""How many calls to AWS a command makes: each takes a tenth of a second, and throttling limits them per account."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from mlflow_fargate.aws.account import Account
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployments.deployer import Deployer
from support.deployer import ECHO, create, make_deployer


def count(deployer: Deployer, act: Callable[[Deployer], object]) -> int:
    """Returns the number of requests to AWS while `act` runs, counted below boto3."""
    seen: list[str] = []
    account = Account(deployer.target)
    account.session._session.events.register("before-call.*", lambda model, **_: seen.append(model.name))
    act(replace(deployer, account=account))
    return len(seen)


@pytest.mark.slow
def test_a_list_describes_ten_deployments_in_one_call(deployer: Deployer) -> None:
    create(deployer, "one")
    of_one = count(deployer, lambda one: list(one.list()))
    create(deployer, "two")
    of_two = count(deployer, lambda one: list(one.list()))

    assert (of_one, of_two) == (6, 8)


@pytest.mark.slow
def test_only_the_first_prediction_calls_aws(aws_url: str, push_image: Callable[..., str]) -> None:
    deployer = make_deployer(aws_url, push_image({"opt/app/src/server.py": ECHO}))
    create(deployer)

    def predict(one: Deployer) -> None:
        assert one.predict("churn", {"inputs": [1]}, 30)

    try:
        first, second = count(deployer, predict), count(deployer, predict)
    finally:
        deployer.delete("churn")

    assert first > 0
    assert second == 0


@pytest.mark.slow
def test_an_update_without_a_difference_and_a_deletion_make_no_more_calls_than_before(deployer: Deployer) -> None:
    create(deployer)

    of_update = count(deployer, lambda one: one.update("churn", None, None, NamedOptions({})))
    of_deletion = count(deployer, lambda one: one.delete("churn"))

    assert of_update <= 56
    assert of_deletion <= 64

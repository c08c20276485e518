"""How many calls to AWS a command makes: each takes a tenth of a second, and throttling limits them per account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mlflow_fargate.aws.account import Account
from mlflow_fargate.client import as_dict
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import DeploymentNotFound, RolloutReplaced
from mlflow_fargate.webhook.control_loop.observe import observe
from mlflow_fargate.webhook.control_loop.rules import RuleSet
from support.deployer import ECHO, READS, PreparingPublisher, create, make_deployer

DEPLOYMENTS = 100


def counted(deployer: Deployer) -> tuple[Deployer, list[str]]:
    """Returns a deployer of its own account object, and the requests to AWS that it makes, counted below boto3."""
    seen: list[str] = []
    account = Account(deployer.target)
    account.session._session.events.register("before-call.*", lambda model, **_: seen.append(model.name))
    return replace(deployer, account=account), seen


def count(deployer: Deployer, act: Callable[[Deployer], object]) -> int:
    """Returns the number of requests to AWS while `act` runs."""
    client, seen = counted(deployer)
    act(client)
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
def test_an_update_without_a_difference_makes_twenty_calls_and_a_deletion_forty(deployer: Deployer) -> None:
    publisher = PreparingPublisher(deployer.publisher.image, deployer.account)  # type: ignore[attr-defined]
    create(replace(deployer, make_publisher=lambda: publisher), auth="api_key")

    of_update, update = counted(deployer)
    assert of_update.update("churn", None, None, NamedOptions({})) == deployer.get("churn")
    of_deletion = count(deployer, lambda one: one.delete("churn"))

    assert not any(not READS.match(name) for name in update)
    assert len(update) <= 20, Counter(update)
    assert of_deletion <= 40
    assert deployer.endpoint.status("churn") is None


@pytest.mark.slow
def test_a_pass_of_the_webhook_service_reads_only_what_has_changed(deployer: Deployer) -> None:
    """One call for ten deployments, one for a list of a hundred, two for the endpoint's address."""
    create(deployer)
    _clone(deployer, DEPLOYMENTS - 1)
    client, seen = counted(deployer)
    try:
        first = look(client)
        of_first = len(seen)
        seen.clear()
        second = look(client)
        of_second = Counter(seen)
        seen.clear()
        deployer.update("churn", "models:/churn/2", None, NamedOptions({"follow": "Production"}))
        third = look(client)
        of_third = Counter(seen)
    finally:
        _delete_clones(deployer)

    assert len(first) == DEPLOYMENTS
    assert second == first
    assert of_first <= 2 + 2.2 * DEPLOYMENTS
    assert of_second.total() <= DEPLOYMENTS / 10 + DEPLOYMENTS / 100 + 2, of_second
    changed = {name for name in third if third[name] != first[name]}
    assert changed == {"churn"}
    assert third["churn"].model_version == "2"
    assert of_third - of_second == {"DescribeTaskDefinition": 1, "ListServiceDeployments": 1}


def look(deployer: Deployer) -> dict[str, Any]:
    """What the webhook service sees, by deployment."""

    class Client:
        def list_deployments(self) -> list[dict[str, Any]]:
            return [as_dict(status) for status in deployer.list()]

    registry = SimpleNamespace(look=lambda names, patterns, tag: {})
    return {watch.deployed.name: watch.deployed for watch in observe(Client(), registry, RuleSet()).watches}  # type: ignore[arg-type]


def _clone(deployer: Deployer, count: int) -> None:
    """Creates services like the deployment's, without tasks."""
    session, cluster = deployer.account.session, deployer.endpoint.cluster
    found = session.call("ecs", "describe_services", cluster=cluster, services=["churn"], include=["TAGS"])
    service = found["services"][0]
    for number in range(count):
        session.call(
            "ecs",
            "create_service",
            cluster=cluster,
            serviceName=f"clone-{number}",
            desiredCount=0,
            **{key: service[key] for key in ("taskDefinition", "loadBalancers", "networkConfiguration", "tags")},
        )


def _delete_clones(deployer: Deployer) -> None:
    session, cluster = deployer.account.session, deployer.endpoint.cluster
    for name in deployer.endpoint.names():
        if name.startswith("clone-"):
            session.delete("ecs", "delete_service", cluster=cluster, service=name, force=True)


def test_an_observation_repeats_no_call_until_it_writes_or_ends(deployer: Deployer) -> None:
    client, seen = counted(deployer)
    session, elsewhere = client.account.session, deployer.account.session

    def read(name: str) -> int:
        found = session.call("ecs", "describe_clusters", clusters=[name])["clusters"]
        return sum(cluster["status"] == "ACTIVE" for cluster in found)

    with session.observation():
        assert [read("observed"), read("observed")] == [0, 0]
        with session.observation():
            elsewhere.call("ecs", "create_cluster", clusterName="observed")
            assert read("observed") == 0
        assert seen == ["DescribeClusters"]
        with ThreadPoolExecutor() as pool:
            assert pool.submit(read, "observed").result() == 1
        assert read("observed") == 0
        session.end_observation()
        assert read("observed") == 1
    with pytest.raises(ZeroDivisionError), session.observation():
        read("observed")
        session.call("ecs", "delete_cluster", cluster="observed")
        assert read("observed") == 0
        1 / 0  # noqa: B018
    elsewhere.call("ecs", "create_cluster", clusterName="observed")
    assert read("observed") == 1
    elsewhere.call("ecs", "delete_cluster", cluster="observed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("happens", "error"),
    [
        (lambda it: it.update("churn", "models:/churn/2", None, NamedOptions({})), RolloutReplaced),
        (lambda it: it.delete("churn"), DeploymentNotFound),
    ],
    ids=["update", "deletion"],
)
def test_what_another_command_does_during_the_observation_is_seen_before_the_first_write(
    deployer: Deployer, happens: Callable[[Deployer], object], error: type[Exception]
) -> None:
    create(deployer, uri="models:/churn/1", desired_count=0)
    client, seen = counted(deployer)
    events = client.account.session._session.events

    def happen(**_: Any) -> None:
        events.unregister("before-call.application-autoscaling", happen)
        happens(deployer)  # the last read of a plan is under way

    events.register("before-call.application-autoscaling", happen)
    with pytest.raises(error, match=r"after this (command|one) began"):
        client.update("churn", None, None, NamedOptions({"cpu": 1024, "memory": 4096}))

    assert all(READS.match(name) for name in seen)

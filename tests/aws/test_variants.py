"""Variants of a deployment on the local stack's AWS: shares, requests by name, mistakes, promotion and deletion."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import requests

from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployment import VARIANT_HEADER
from mlflow_fargate.deployments import keys, variants
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import FargateError
from mlflow_fargate.resolved_model import ResolvedModel
from support.deployer import QUICK, FakePublisher, count_writes, create, make_deployer

pytestmark = pytest.mark.slow


@pytest.fixture
def champion(aws_url: str, push_image: Callable[..., str]) -> Iterator[Deployer]:
    """A deployment `churn`; its variants and itself are deleted at the end."""
    deployer = make_deployer(aws_url, push_image())
    create(deployer)
    try:
        yield deployer
    finally:
        for name in sorted((status.name for status in deployer.list()), reverse=True):
            deployer.delete(name)


def challenge(deployer: Deployer, variant: str = "challenger", version: int = 2, **options: object) -> None:
    named = NamedOptions({**QUICK, "variant_of": "churn", **options})
    deployer.create(f"churn-{variant}", f"models:/churn/{version}", None, named)


def answers(deployer: Deployer, count: int = 1, **headers: str) -> Counter[str]:
    """Who answered: the variant's name, or 'churn'."""
    url = deployer.get("churn").url
    found = (requests.get(f"{url}/anything", headers=headers, timeout=10) for _ in range(count))
    return Counter(one.json()["environment"].get("MODEL_VARIANT", "churn") for one in found)


def await_answers(deployer: Deployer, wanted: dict[str, int]) -> None:
    """A rule's new weights reach the load balancer a moment after the call."""
    deadline = time.monotonic() + 60
    while (found := answers(deployer, sum(wanted.values()))) != wanted:
        assert time.monotonic() < deadline, found


def test_a_new_variant_answers_only_requests_that_name_it(champion: Deployer) -> None:
    challenge(champion)

    assert champion.endpoint.shares("churn") == {"churn": 100, "churn-challenger": 0}
    assert answers(champion, 20) == {"churn": 20}
    assert answers(champion, **{VARIANT_HEADER: "challenger"}) == {"challenger": 1}
    assert answers(champion, **{VARIANT_HEADER: "unknown"}) == {"churn": 1}
    assert champion.get("churn-challenger").url == champion.get("churn").url


def test_shares_change_with_one_write_and_without_a_rollout(champion: Deployer) -> None:
    challenge(champion, traffic=10)
    assert champion.endpoint.shares("churn") == {"churn": 90, "churn-challenger": 10}

    writes = count_writes(champion, lambda client: variants.divide(client, "churn", {"challenger": 100}))

    assert writes == {"ModifyRule": 1}
    await_answers(champion, {"challenger": 20})
    assert [(one.name, percent) for one, percent in variants.shares(champion, "churn")] == [
        ("churn", 0),
        ("churn-challenger", 100),
    ]


@pytest.mark.exhaustive
def test_an_update_of_the_deployment_keeps_its_variants_shares(champion: Deployer) -> None:
    challenge(champion, traffic=30)

    assert count_writes(champion, lambda client: client.update("churn", None, None, NamedOptions())) == {}
    champion.update("churn", "models:/churn/3", None, NamedOptions({"port": 8099}))

    assert champion.endpoint.shares("churn") == {"churn": 70, "churn-challenger": 30}
    assert answers(champion, 60).keys() == {"churn", "challenger"}


@pytest.mark.exhaustive
def test_deleting_a_variant_gives_its_share_back_and_leaves_nothing(champion: Deployer) -> None:
    challenge(champion, traffic=40)
    challenge(champion, "other", traffic=20)

    champion.delete("churn-challenger")

    assert champion.endpoint.shares("churn") == {"churn": 80, "churn-other": 20}
    assert [status.name for status in champion.list()] == ["churn", "churn-other"]
    assert list(champion.account.orphans()) == []


@pytest.mark.exhaustive
def test_a_promoted_variant_is_what_the_deployment_serves(champion: Deployer) -> None:
    challenge(champion, traffic=10)

    variants.promote(champion, "churn", "challenger")

    status = champion.get("churn")
    assert (status.provenance.version, status.follow) == ("2", "pinned")
    assert champion.endpoint.shares("churn") == {"churn": 100}


def test_mistakes_are_refused_before_the_first_write(champion: Deployer) -> None:
    challenge(champion, traffic=10)
    refused: dict[str, Callable[[Deployer], object]] = {
        "still has variants: churn-challenger": lambda client: client.delete("churn"),
        "auth of 'churn' cannot change": lambda client: client.update("churn", None, None, options(auth="api_key")),
        "strategy of 'churn' cannot": lambda client: client.update("churn", None, None, options(strategy="canary")),
        "'churn-challenger' with 10% of the requests needs a task": lambda client: client.update(
            "churn-challenger", None, None, options(desired_count=0)
        ),
        "has no variant 'challenger2'": lambda client: variants.divide(client, "churn", {"challenger2": 5}),
        "would get 110%": lambda client: challenge(client, "other", traffic=100),
        "is itself a variant": lambda client: variants.divide(client, "churn-challenger", {"x": 5}),
        "is a variant of 'churn' and has its API key|has no API key": lambda client: keys.rotate(
            client, "churn-challenger"
        ),
        "no deployment 'chrun' for variant_of=chrun": lambda client: client.create(
            "chrun-b", "models:/churn/2", None, options(variant_of="chrun")
        ),
    }
    for said, act in refused.items():

        def refuse(client: Deployer, said: str = said, act: Callable[[Deployer], object] = act) -> None:
            with pytest.raises(FargateError, match=said):
                act(client)

        assert count_writes(champion, refuse) == {}


def options(**named: object) -> NamedOptions:
    return NamedOptions(named)


@pytest.mark.exhaustive
def test_a_variant_without_a_healthy_task_gets_no_share(champion: Deployer) -> None:
    challenge(champion, desired_count=0)

    with pytest.raises(FargateError, match="needs a task at all times"):
        variants.divide(champion, "churn", {"challenger": 10})
    assert champion.endpoint.shares("churn") == {"churn": 100, "churn-challenger": 0}


@pytest.mark.exhaustive
def test_another_signature_is_a_warning(champion: Deployer, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = FakePublisher.resolve

    def with_signature(publisher: FakePublisher, uri: str, labels: str | None) -> ResolvedModel:
        model = resolve(publisher, uri, labels)
        inputs = f'[{{"name": "column {model.version}"}}]'
        return replace(model, metadata={**model.metadata, "signature": {"inputs": inputs}})

    monkeypatch.setattr(FakePublisher, "resolve", with_signature)
    champion.preview("churn-challenger", "models:/churn/2", None, options(variant_of="churn", auth="none"))

    (warning,) = [note for note in champion.progress.lines if "signature" in note]  # type: ignore[attr-defined]
    assert 'inputs lack {"name": "column 1"}; inputs have {"name": "column 2"}' in warning


@pytest.mark.exhaustive
def test_a_new_api_key_reaches_the_tasks_of_all_variants(champion: Deployer) -> None:
    champion.update("churn", None, None, options(auth="api_key"))
    challenge(champion, auth="api_key")

    keys.rotate(champion, "churn")

    url = champion.get("churn").url
    of_variant, own = (
        requests.get(f"{url}/anything", headers=headers, timeout=10).json()["key"]
        for headers in ({VARIANT_HEADER: "challenger"}, {})
    )
    assert of_variant == own
    assert len(own.split()) == 2

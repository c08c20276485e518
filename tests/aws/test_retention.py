"""What a deletion leaves on purpose: marked, left alone by gc, taken by the next deletion that does not name it."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from mlflow_fargate.config import NamedOptions, parse_retain
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import EndpointInUse, InvalidOption
from mlflow_fargate.local.registry.server import LocalRegistry
from support.deployer import QUICK, PreparingPublisher, count_writes
from support.registry import PushImage


def tag_image(registry: LocalRegistry, image: str) -> None:
    """An image of the deployment in its endpoint's repository, as the publisher tags it."""
    digest = image.partition("@")[2]
    manifest = registry.store.manifest("mlflow-fargate/default", digest)
    registry.store.put_manifest("mlflow-fargate/default", "churn.0123", manifest.body, manifest.media_type)


def left(deployer: Deployer) -> set[str]:
    """Which of images and logs are there."""
    session = deployer.account.session
    groups = session.call("logs", "describe_log_groups", logGroupNamePrefix="/mlflow-fargate/default/churn")
    found = {"logs"} if groups["logGroups"] else set()
    return found | ({"images"} if deployer.account.endpoint("default").repository.image_tags("churn") else set())


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, set()),
        ({}, set()),
        ({"retain": ""}, set()),
        ({"retain": "logs"}, {"logs"}),
        ({"retain": "images, logs"}, {"images", "logs"}),
        ({"retain": ["images"]}, {"images"}),
    ],
)
def test_what_is_to_stay_may_be_a_text_or_a_list(given: dict[str, Any] | None, meant: set[str]) -> None:
    assert parse_retain(given) == meant


@pytest.mark.parametrize(
    ("given", "said"),
    [({"retain": "log"}, "'log' is not supported"), ({"cpu": 1}, "Unknown option 'cpu' for delete")],
)
def test_anything_else_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        parse_retain(given)


@pytest.mark.slow
def test_what_is_retained_stays_until_a_deletion_that_does_not_name_it(
    deployer: Deployer, registry: LocalRegistry, push_image: PushImage
) -> None:
    image = push_image(repository="mlflow-fargate/default")
    deployer = replace(deployer, make_publisher=lambda: PreparingPublisher(image, deployer.account))  # type: ignore[arg-type]
    for retain in itertools.chain.from_iterable(itertools.combinations(("images", "logs"), count) for count in (2, 1)):
        deployer.create("churn", "models:/churn/Production", None, NamedOptions({**QUICK, "desired_count": 0}))
        tag_image(registry, image)

        deployer.delete("churn", frozenset(retain))

        assert left(deployer) == set(retain)
        # (What pushed the image gave it a tag of its own.)
        assert [orphan for orphan in list(deployer.account.orphans()) if orphan.name == "churn"] == []
        if "images" in retain:
            with pytest.raises(EndpointInUse, match="contains retained images of churn"):
                deployer.delete_endpoint("default")
    assert deployer.endpoint.retained("churn") == {"logs"}

    deployer.delete("churn")
    again = count_writes(deployer, lambda counted: counted.delete("churn"))

    assert (left(deployer), again) == (set(), Counter())
    assert deployer.endpoint.retained("churn") == frozenset()

"""Tests what anyone who can register and tag models can do to other people's deployments: nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.webhook.control_loop import model_registry
from mlflow_fargate.webhook.control_loop.model_registry import all_pages
from mlflow_fargate.webhook.control_loop.observe import observe
from mlflow_fargate.webhook.control_loop.rules import BY_TAG, MAX_DEPLOYMENTS_BY_TAG, TAG_LIMITS, RuleBook
from mlflow_fargate.webhook.control_loop.worker import Worker
from support.webhook_fakes import FakeDeployments, FakeRegistry

WaitUntil = Callable[[Callable[[], bool]], None]

KEYS = ("deploy", "name", "follow", "on_demotion", *(f"config.{option}" for option in (*TAG_LIMITS, "task_role_arn")))
HOSTILE = st.one_of(
    st.text(max_size=80),
    st.sampled_from(
        ["Prod", "default ", "default", "prod", "nowhere", "churn", "@", "", "-1", "1e9", "0", "NaN", "9" * 5000]
    ),
)
TAGS = st.dictionaries(st.sampled_from(KEYS), HOSTILE)
NAMES = st.one_of(st.text(min_size=1, max_size=40), st.sampled_from(["zzz", "aaa", "churn ", "m-churn", "%", "c*"]))


def make_worker(deployments: FakeDeployments, registry: FakeRegistry, rules: RuleBook | None = None) -> Worker:
    deployments.deploy("churn", "churn", "1", endpoint="default")
    registry.promote("churn", "2")
    return Worker(connect=lambda: deployments, registry=registry, rules=rules or RuleBook(by_tag=True))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, st.tuples(TAGS, st.text(max_size=10), st.booleans()), max_size=6))
def test_no_tags_of_other_models_change_what_happens_to_a_deployment(
    others: dict[str, tuple[dict[str, str], str, bool]],
) -> None:
    deployments, registry = FakeDeployments(), FakeRegistry()
    worker = make_worker(deployments, registry)
    for name, (tags, alias, is_promoted) in others.items():
        registry.tag(name, **tags)
        registry.alias(name, alias, "1")
        registry.promote(name, *("1", "2") if is_promoted else ())
    registry.promote("churn", "2")
    registry.tags.pop("churn", None)
    worker.look()
    seen = worker.seen()["churn"]

    assert (seen.deployed.model_name, seen.action.kind, seen.action.version) == ("churn", "update", "2")
    assert worker.looked_at is not None
    assert deployments.updates == []  # only threads that act write, and none was started


@pytest.mark.parametrize("value", ["Prod", "default ", "nowhere", "x" * 5000, "9" * 5000])
def test_a_hostile_endpoint_in_a_tag_is_reported_and_stops_nothing(value: str) -> None:
    deployments, registry = FakeDeployments(), FakeRegistry()
    worker = make_worker(deployments, registry)
    registry.promote("typo", "1")
    registry.tag("typo", deploy=value)
    worker.look()

    assert worker.seen()["churn"].action.kind == "update"
    assert "typo" not in worker.seen() and worker.looked_at
    assert worker.error is not None and ("typo" in worker.error or "nowhere" in worker.error)
    assert len(worker.error) < 1000


def test_tags_create_no_endpoint_and_a_thousand_names_cost_one_call() -> None:
    deployments, registry = FakeDeployments(), FakeRegistry()
    make_worker(deployments, registry)
    for number in range(1000):
        registry.tag(f"m{number}", deploy=f"e{number}")
        registry.promote(f"m{number}", "1")
    observed = observe(deployments, registry, BY_TAG)

    assert [watch.deployed.name for watch in observed.watches] == ["churn"]
    assert deployments.lists == 1
    assert len(observed.problems) == 1000
    assert "endpoint 'e1' is named in tags, and does not exist" in observed.problems


def test_without_permission_to_list_endpoints_tags_reach_only_the_targets_own() -> None:
    class Deployments(FakeDeployments):
        def list_endpoints(self) -> list[dict[str, Any]]:
            raise InvalidOption("no permission")

    deployments, registry = Deployments(), FakeRegistry()
    make_worker(deployments, registry)
    registry.promote("near", "1")
    registry.tag("near", deploy="default")
    registry.promote("far", "1")
    registry.tag("far", deploy="prod")
    observed = observe(deployments, registry, BY_TAG)

    assert {watch.deployed.name for watch in observed.watches} == {"churn", "near"}
    assert observed.problems == ["endpoint 'prod' is named in tags, and endpoints cannot be listed: no permission"]


# Fargate offers these sizes: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-cpu-memory-error.html
@pytest.mark.parametrize(
    ("option", "larger"),
    [
        ("cpu", {"cpu": "8192", "memory": "16384"}),
        ("memory", {"cpu": "4096", "memory": "30720"}),
        ("desired_count", {"desired_count": "5"}),
    ],
)
def test_sizes_and_counts_in_tags_are_bounded(option: str, larger: dict[str, str]) -> None:
    def tags(config: dict[str, str]) -> dict[str, str]:
        return {"fargate.deploy": "prod", **{f"fargate.config.{key}": value for key, value in config.items()}}

    assert BY_TAG.rule_for("m", tags({key: str(most) for key, most in TAG_LIMITS.items()}))
    with pytest.raises(InvalidOption, match=f"{option} can be at most {TAG_LIMITS[option]} in tags"):
        BY_TAG.rule_for("m", tags(larger))


def test_tags_create_a_bounded_number_of_deployments_and_keep_those_that_exist() -> None:
    deployments, registry = FakeDeployments(), FakeRegistry()
    make_worker(deployments, registry)
    registry.tag("zz-older", deploy="default")
    deployments.deploy("zz-older", "zz-older", "1", endpoint="default")
    for number in range(3 * MAX_DEPLOYMENTS_BY_TAG):
        registry.tag(f"m{number}", deploy="default")
        registry.promote(f"m{number}", "1")
    observed = observe(deployments, registry, BY_TAG)
    tagged = [watch.deployed.name for watch in observed.watches if watch.rule]

    assert len(tagged) == MAX_DEPLOYMENTS_BY_TAG and "zz-older" in tagged
    assert len(observed.problems) == 2 * MAX_DEPLOYMENTS_BY_TAG + 1


def test_a_name_belongs_to_the_model_of_that_name_before_it_is_deployed() -> None:
    deployments, registry = FakeDeployments(), FakeRegistry()
    make_worker(deployments, registry)
    for model, tags in {"fraud": {}, "aaa": {"name": "fraud"}}.items():
        registry.promote(model, "1")
        registry.tag(model, deploy="default", **tags)
    observed = observe(deployments, registry, BY_TAG)
    (fraud,) = (watch for watch in observed.watches if watch.deployed.name == "fraud")

    assert (fraud.deployed.model_name, fraud.conflict) == ("fraud", None)
    assert observed.problems == ["model 'aaa' is not deployed: deployment 'fraud' is for model 'fraud'"]


def test_without_the_switch_tags_mean_nothing() -> None:
    deployments, registry = FakeDeployments(), FakeRegistry()
    worker = make_worker(deployments, registry, RuleBook())
    registry.promote("tagged", "1")
    registry.tag("tagged", deploy="default")
    worker.look()

    assert list(worker.seen()) == ["churn"] and worker.error is None


def test_an_unexpected_error_about_one_model_does_not_keep_the_others_from_being_read() -> None:
    deployments, registry = FakeDeployments(), FakeRegistry()
    worker = make_worker(deployments, registry)
    deployments.deploy("aaa", "aaa", "1", follow="latest", endpoint="default")
    registry.promote("aaa", "not a number")
    worker.look()

    assert worker.seen()["churn"].action.kind == "update"
    assert worker.error == "aaa: ValueError" and worker.looked_at


def test_thousands_of_problems_are_reported_in_short() -> None:
    deployments, registry = FakeDeployments(), FakeRegistry()
    worker = make_worker(deployments, registry)
    for number in range(5000):
        registry.tag(f"m{number}", deploy="Prod" * 1000)
    worker.look()

    assert worker.error is not None and worker.error.endswith("; 4990 more") and len(worker.error) < 4000


def test_a_search_that_never_ends_is_read_up_to_a_limit() -> None:
    class Page(list[int]):
        token = "more"

    assert len(list(all_pages(lambda token: Page([1])))) == model_registry._MOST_PAGES

"""Tests rules from YAML and from tags, the deployments they require, and errors in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.webhook.control_loop.model_registry import ModelState
from mlflow_fargate.webhook.control_loop.observe import observe
from mlflow_fargate.webhook.control_loop.reconcile import ABSENT, Deployed
from mlflow_fargate.webhook.control_loop.rules import BY_TAG, DeploymentRule, RuleBook, RuleSet, parse_rules
from mlflow_fargate.webhook.control_loop.watch import make_watches
from mlflow_fargate.webhook.control_loop.worker import Timing, Worker
from support.webhook_fakes import FakeDeployments, FakeRegistry

WaitUntil = Callable[[Callable[[], bool]], None]

EXAMPLE = """
models:
  "fraud-*": {alias: champion, on_demotion: scale_to_zero}
  churn: {stage: production, endpoint: prod, config: {cpu: 1024, memory: 2048}}
  fraud-eu: {alias: "@best", name: fraud}
"""
HELD = ModelState({"Production": ("1",)}, {"champion": "1"})


def test_rules_are_read() -> None:
    assert parse_rules(EXAMPLE, "rules.yaml").rules == (
        DeploymentRule("fraud-*", "@champion", on_demotion="scale_to_zero"),
        DeploymentRule("churn", "Production", "prod", config={"cpu": 1024, "memory": 2048}),
        DeploymentRule("fraud-eu", "@best", name="fraud"),
    )


def test_a_name_takes_precedence_over_a_pattern() -> None:
    rules = parse_rules(EXAMPLE, "rules.yaml")

    assert rules.rule_for("fraud-eu", {}) == DeploymentRule("fraud-eu", "@best", name="fraud")
    assert rules.rule_for("fraud-us", {}) == DeploymentRule("fraud-*", "@champion", on_demotion="scale_to_zero")
    assert rules.rule_for("xfraud-us", {}) is None
    assert (rules.model_names, rules.patterns) == ({"churn", "fraud-eu"}, {"fraud-*"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [", "is not valid YAML"),
        ("- a", "top level: "),
        ("model: {}", "models: Field required"),
        ("models: {churn: {}}", "either stage or alias"),
        ("models: {churn: {stage: Production, alias: a}}", "either stage or alias"),
        ("models: {churn: {stage: Prod}}", "models.churn.stage"),
        ("models: {churn: {stage: Production, config: {cpus: 1}}}", "Did you mean 'cpu'"),
        ("models: {churn: {stage: Production, config: {follow: pinned}}}", "config.follow cannot be set in a rule"),
        (
            "models: {churn: {stage: Production, config: {smoke_test: true}}}",
            "config.smoke_test cannot be set in a rule",
        ),
        ("models: {churn: {stage: Production, config: {convert: true}}}", "config.convert cannot be set in a rule"),
        ("models: {churn: {stage: Production, endpoint: 'Not One'}}", "is not a valid endpoint name"),
        ("models: {churn: {stage: Production, on_demotion: explode}}", "on_demotion"),
        ("models: {'c*': {stage: Production, name: one}}", "several models"),
        ("models: {churn: {stage: Production, name: ../x}}", "starting with a letter"),
    ],
)
def test_errors_in_rules_are_reported(text: str, said: str) -> None:
    with pytest.raises(InvalidOption) as error:
        parse_rules(text, "rules.yaml")

    assert error.value.message.startswith("rules.yaml") and said in error.value.message


@given(st.text(min_size=1))
def test_any_model_name_becomes_a_valid_deployment_name(model_name: str) -> None:
    from mlflow_fargate.deployments.rules import check_name

    check_name(DeploymentRule("*", "Production").deployment_of(model_name))


def test_tags_make_a_rule() -> None:
    tags = {"fargate.deploy": "prod", "fargate.follow": "@champion", "fargate.config.cpu": "512", "owner": "me"}

    rule = BY_TAG.rule_for("churn", {**tags, "fargate.config.memory": "1024"})
    assert rule == DeploymentRule("churn", "@champion", "prod", config={"cpu": "512", "memory": "1024"})
    assert BY_TAG.rule_for("churn", {"owner": "me"}) is None
    assert RuleSet().rule_for("churn", tags) is None


@pytest.mark.parametrize(
    "tags",
    [
        {"fargate.config.task_role_arn": "arn:aws:iam::1:role/admin"},
        {"fargate.config.cpu": "many"},
        {"fargate.name": "../etc"},
        {"fargate.on_demotion": "delete"},
        {"fargate.deploy": "Not An Endpoint"},
    ],
)
def test_tags_can_set_only_sizes_and_times(tags: dict[str, str]) -> None:
    states = {"churn": ModelState({}, {}, {"fargate.deploy": "prod", **tags}), "good": HELD}
    watches, problems = make_watches([], states, BY_TAG)

    assert (watches, len(problems)) == ([], 1) and "'churn'" in problems[0]


def test_rules_create_missing_deployments_and_leave_pinned_and_foreign_ones() -> None:
    rules = parse_rules("models: {a: {stage: Production}, b: {stage: Production}, c: {stage: Production}}", "rules")
    pinned = Deployed("b", "pinned", "b", "1", "COMPLETED")
    other = Deployed("c", "Production", "else", "1", "COMPLETED")
    by_hand = Deployed("d", "@champion", "d", "1", "COMPLETED")
    watches, problems = make_watches([pinned, other, by_hand], {"a": HELD, "b": HELD, "c": HELD}, rules)
    found = {watch.deployed.name: watch for watch in watches}

    assert found["a"].deployed == Deployed("a", "Production", "a", None, ABSENT)
    assert found["b"].deployed == pinned
    assert found["c"].deployed == other and found["c"].rule is None
    assert problems == ["model 'c' is not deployed: deployment 'c' already serves model 'else'"]
    assert found["d"].deployed == by_hand and found["d"].rule is None


def test_two_models_that_map_to_one_deployment_are_a_conflict() -> None:
    rules = parse_rules("models: {'a*': {stage: Production}}", "rules")
    (watch,), _ = make_watches([], {"a b": HELD, "a.b": HELD}, rules)

    assert watch.conflict == "models 'a b' and 'a.b' both map to deployment 'a-b'"


@pytest.mark.parametrize("has_own_rule", [True, False])
def test_the_model_that_a_deployment_serves_keeps_it_when_a_newcomer_wants_its_name(has_own_rule: bool) -> None:
    own_tags = {"fargate.deploy": "prod"} if has_own_rule else {}
    states = {
        "churn": ModelState({"Production": ("2",)}, {}, own_tags),
        "zzz": ModelState({"Production": ("1",)}, {}, {"fargate.deploy": "prod", "fargate.name": "churn"}),
    }
    there = Deployed("churn", "Production", "churn", "1", "COMPLETED")
    (watch,), problems = make_watches([there], states, BY_TAG, {"prod"})

    assert (watch.deployed, watch.conflict) == (there, None)
    assert problems == ["model 'zzz' is not deployed: deployment 'churn' already serves model 'churn'"]


def test_endpoints_in_invalid_tags_are_not_read() -> None:
    class Deployments(FakeDeployments):
        def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
            read.append(endpoint)
            return super().list_deployments(endpoint)

    read: list[str | None] = []
    registry = FakeRegistry()
    registry.tag("good", deploy="prod")
    registry.tag("bad", deploy="Prod ")
    registry.promote("none", "1")
    observe(Deployments(), registry, BY_TAG)

    assert read == [None, "prod"]


def test_an_endpoint_that_cannot_be_read_stops_only_its_own_deployments() -> None:
    class Deployments(FakeDeployments):
        def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
            if endpoint == "other":
                raise InvalidOption("no permission")
            return super().list_deployments(endpoint)

    deployments, registry = Deployments(), FakeRegistry()
    deployments.endpoints.append("other")
    deployments.deploy("api", "churn", "1", endpoint="prod")
    registry.promote("churn", "2")
    registry.tag("stranger", deploy="other")
    observed = observe(deployments, registry, BY_TAG)

    assert [watch.deployed.name for watch in observed.watches] == ["api"]
    assert observed.problems == ["endpoint 'other' cannot be read: no permission"]


def test_a_rule_can_name_the_targets_own_endpoint() -> None:
    rules = parse_rules("models: {a: {stage: Production, endpoint: prod}}", "rules")
    there = Deployed("a", "Production", "a", "1", "COMPLETED")
    (watch,), _ = make_watches([there], {"a": HELD}, rules, {"prod"})

    assert watch.deployed == there
    (absent,) = (one for one in make_watches([there], {"a": HELD}, rules, {"default"})[0] if one.rule)
    assert absent.deployed == replace(there, endpoint="prod", state=ABSENT, model_version=None)


def test_a_rule_creates_then_updates_with_its_options(
    deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    text = ["models: {'fr*': {alias: champion, endpoint: prod, config: {cpu: 512}}}"]
    worker = Worker(
        connect=lambda: deployments,
        registry=registry,
        rules=RuleBook(lambda: text[0], "rules"),
        timing=Timing(poll_seconds=0.02),
    )
    registry.alias("fraud", "champion", "1")
    registry.alias("churn", "champion", "1")
    worker.start()
    wait_until(lambda: "fraud" in deployments.listed)
    registry.alias("fraud", "champion", "2")
    wait_until(lambda: deployments.version("fraud") == "2")

    assert deployments.configs == {
        "fraud": {
            "smoke_test": False,
            "convert": False,
            "build_sdists": False,
            "cpu": 512,
            "follow": "@champion",
        }
    }
    assert deployments.listed["fraud"]["at"] == "prod"
    text[0] = "models: {churn: {alias: champion}}"
    wait_until(lambda: "churn" in deployments.listed)
    assert worker.stop(5)


def test_invalid_rules_change_nothing_and_are_reported_until_fixed(
    deployments: FakeDeployments, registry: FakeRegistry
) -> None:
    text = ["models: {churn: {stage: Production}}"]
    book = RuleBook(lambda: text[0], "rules.yaml")
    good = book.current()
    text[0] = "models: {churn: {stage: Prod}}"

    assert book.current() == good and "last valid rules" in (book.error or "")
    assert book.current() == good and book.error
    text[0] = "models: {churn: {alias: new}}"
    assert book.current().rules[0].follow == "@new" and book.error is None
    with pytest.raises(InvalidOption):
        RuleBook(lambda: "models: 1", "rules.yaml")


def test_tagged_models_are_deployed(
    worker: Worker, deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    registry.promote("churn", "4")
    registry.tag("churn", deploy="prod", config__cpu="512")
    registry.promote("plain", "1")
    worker.start()
    wait_until(lambda: "churn" in deployments.listed)

    assert deployments.updates == [("churn", "models:/churn/4")]


def test_demotion_scales_to_zero_and_promotion_back(
    deployments: FakeDeployments, registry: FakeRegistry, wait_until: WaitUntil
) -> None:
    now = [1000.0]
    rules = RuleBook(lambda: "models: {churn: {stage: Production, on_demotion: scale_to_zero}}", "rules")
    worker = Worker(
        connect=lambda: deployments,
        registry=registry,
        rules=rules,
        timing=Timing(poll_seconds=0.02, clock=lambda: now[0]),
    )
    registry.promote("churn", "1")
    worker.start()
    wait_until(lambda: "churn" in deployments.listed and not deployments.running)
    registry.promote("churn")
    looks = registry.looks
    wait_until(lambda: registry.looks > looks + 2)
    assert deployments.configs["churn"].get("desired_count") is None
    now[0] += 61
    wait_until(lambda: deployments.listed["churn"].get("desired_count") == 0)
    registry.promote("churn", "2")
    wait_until(lambda: deployments.version("churn") == "2")

    assert deployments.listed["churn"]["desired_count"] == 1
    assert worker.stop(5)

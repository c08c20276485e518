"""Plans: pure, and readable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from mlflow_fargate.plan import Found, Properties, Resource, make_deletion, make_plan
from mlflow_fargate.resources.properties import ClusterProperties


@dataclass(frozen=True)
class Service(Properties):
    desired_count: int
    follow: str


@dataclass(frozen=True)
class Task(Properties):
    environment: Mapping[str, str]
    label: str


@dataclass(frozen=True)
class Anything(Properties):
    a: int | str | None = None
    b: int | str | None = None
    c: int | str | None = None
    d: int | str | None = None
    more: str | None = field(default=None, compare=False)


NOTHING = Properties()
CLUSTER = Resource("cluster", "main", ClusterProperties(("FARGATE",)))
SERVICE = Resource("service", "churn", Service(2, "Production"))


def test_what_is_absent_is_created_in_the_order_of_dependency() -> None:
    plan = make_plan([CLUSTER, SERVICE], {})

    assert [(change.action, change.name) for change in plan.changes] == [("create", "main"), ("create", "churn")]
    assert str(plan) == "+ create cluster main\n+ create service churn"


def test_a_difference_shows_both_values() -> None:
    found = {("service", "churn"): Found("arn", Service(1, "Production"))}

    plan = make_plan([SERVICE], found)

    assert plan.changes[0].differences == (("desired_count", 1, 2),)
    assert str(plan) == "~ change service churn\n    desired_count: 1 → 2"


def test_of_a_table_only_the_entries_that_differ_are_shown() -> None:
    label = '{"provenance": {"version": "%s"}, "settings": {"cpu": 512}}'
    wanted = Resource("task definition", "churn", Task({"A": "1", "B": "2"}, label % 2))
    found = {("task definition", "churn"): Found("arn", Task({"A": "1", "C": "3"}, label % 1))}

    assert str(make_plan([wanted], found)).splitlines() == [
        "~ change task definition churn",
        "    environment.B: none → 2",
        "    environment.C: 3 → none",
        '    label: {"provenance": {"version": "1"}, "settings": {"cpu": 512}} → '
        '{"provenance": {"version": "2"}, "settings": {"cpu": 512}}',
    ]


def test_a_plan_is_json() -> None:
    found = {("service", "churn"): Found("arn", Service(1, "Production"))}

    told = json.loads(json.dumps(make_plan([CLUSTER, SERVICE], found).as_dict()))

    assert told["has_changes"]
    assert [change["action"] for change in told["changes"]] == ["create", "change"]
    assert told["changes"][0]["differences"] == [
        {"property": "capacity_providers", "before": None, "after": ["FARGATE"]}
    ]
    assert told["changes"][1] == {
        "action": "change",
        "kind": "service",
        "name": "churn",
        "identifier": "arn",
        "differences": [{"property": "desired_count", "before": 1, "after": 2}],
    }


values = st.none() | st.integers() | st.text(max_size=3)
properties = st.builds(Anything, a=values, b=values, c=values, d=values)


@given(properties, st.text(max_size=3))
def test_what_is_as_wanted_is_left_alone(wanted: Anything, more: str) -> None:
    resource = Resource("service", "churn", wanted)

    plan = make_plan([resource], {("service", "churn"): Found("arn", replace(wanted, more=more))})

    assert plan.is_empty
    assert str(plan) == "= 1 unchanged"


@given(properties, properties)
def test_a_plan_is_empty_exactly_when_nothing_differs(wanted: Anything, seen: Anything) -> None:
    plan = make_plan([Resource("service", "churn", wanted)], {("service", "churn"): Found("arn", seen)})

    assert plan.is_empty == all(getattr(wanted, key) == getattr(seen, key) for key in "abcd")


def test_a_creation_lists_what_is_decided_and_leaves_out_what_is_only_seen() -> None:
    plan = make_plan([Resource("service", "churn", Anything(a=1))], {})

    told = {item["property"]: item["after"] for item in plan.as_dict()["changes"][0]["differences"]}

    assert told == {"a": 1, "b": None, "c": None, "d": None}


def test_a_deletion_goes_backwards_and_skips_foreign_resources() -> None:
    found = [
        ("cluster", "main", Found("1", NOTHING, is_ours=False)),
        ("target group", "t", Found("2", NOTHING)),
        ("service", "s", Found("3", NOTHING)),
    ]

    plan = make_deletion(found)

    assert [(change.action, change.name) for change in plan.changes] == [("delete", "s"), ("delete", "t")]


def test_what_should_be_absent_goes_where_it_is_ours_and_is_not_mentioned_where_it_is_not() -> None:
    unwanted = Resource("autoscaling", "churn", NOTHING, is_wanted=False)
    there, foreign = Found("service/c/churn", NOTHING), Found("service/c/churn", NOTHING, is_ours=False)
    key = ("autoscaling", "churn")

    assert str(make_plan([unwanted], {key: there})) == "- delete autoscaling churn"
    assert make_plan([unwanted], {key: foreign}).changes == ()
    assert make_plan([unwanted], {}).changes == ()

"""A plan for users: it names options and the model, not the properties of AWS resources."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlflow_fargate.config import parse_config
from mlflow_fargate.deployments.rules import follow_note
from mlflow_fargate.plan import Found, Plan, make_plan
from mlflow_fargate.resolved_model import Provenance
from mlflow_fargate.resources import DeploymentSpec, EndpointSpec, Network, deployment_resources
from mlflow_fargate.resources.properties import ServiceProperties, TaskProperties

ENDPOINT = EndpointSpec("default", Network("vpc-1", ("subnet-a", "subnet-b")), "us-east-1", "123456789012")
REPOSITORY = "123456789012.dkr.ecr.us-east-1.amazonaws.com/mlflow-fargate/default"
V1 = Provenance("models:/churn/Production", "models:/churn/1", "f1", "sklearn", "churn", "1", "run1")
V2 = replace(V1, resolved_uri="models:/churn/2", fingerprint="f2", version="2", run_id="run2")


def spec(provenance: Provenance = V1, digest: str = "a", follow: str = "Production", **options: Any) -> DeploymentSpec:
    config = parse_config(options)
    return DeploymentSpec("churn", ENDPOINT, config, f"{REPOSITORY}@sha256:{digest * 64}", provenance, follow)


def plan(before: DeploymentSpec, after: DeploymentSpec) -> Plan:
    found = {
        (resource.resource_type, resource.name): Found("arn", resource.properties)
        for resource in deployment_resources(before)
        if resource.is_wanted
    }
    return make_plan(deployment_resources(after), found)


def lines(before: DeploymentSpec, after: DeploymentSpec) -> list[str]:
    return [line.strip() for line in str(plan(before, after)).splitlines() if line.startswith("    ")]


def test_a_new_version_is_shown_as_that_with_its_image() -> None:
    assert lines(spec(), spec(V2, "b")) == ["model version: 1 → 2", "image: sha256:aaaaaaaaaaaa → sha256:bbbbbbbbbbbb"]


def test_a_size_is_shown_once_and_by_its_options() -> None:
    assert lines(spec(), spec(cpu=2048, memory=4096)) == ["cpu: 1024 → 2048", "memory: 2048 → 4096"]


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ({}, {"desired_count": 2}, ["desired_count: 1 → 2"]),
        ({}, {"environment": {"A": "1"}}, ["environment.A: none → 1"]),
        ({"auth": "none"}, {}, ["auth: none → api_key"]),
        ({}, {"spot": True}, ["spot: false → true"]),
        ({}, {"log_retention_days": 90}, ["log_retention_days: 30 → 90"]),
        ({}, {"requirements": "lightgbm==4.6"}, ["requirements: default → lightgbm==4.6"]),
        ({}, {"batching": True}, ["batching: default → true"]),
        ({}, {"tags": {"team": "pricing"}}, ["tags.team: none → pricing"]),
        ({"max_count": 3}, {"max_count": 4}, ["min_count, max_count: 1, 3 → 1, 4"]),
        ({"max_count": 3}, {"max_count": 3, "target_cpu_percent": 70}, ["target_cpu_percent: 60.0 → 70.0"]),
        ({}, {"container_health_check": "true"}, ["container_health_check: none → true"]),
        ({}, {"stop_timeout_seconds": 60}, ["stop_timeout_seconds: 30 → 60"]),
        (
            {"strategy": "canary"},
            {"strategy": "canary", "canary_percent": 20},
            ["canary_percent: 5.0 → 20.0"],
        ),
    ],
)
def test_each_option_is_shown_by_its_name(before: dict[str, Any], after: dict[str, Any], shown: list[str]) -> None:
    found = lines(spec(**before), spec(**after))

    assert [line for line in shown if line not in found] == [], found
    assert not [line for line in found if "label" in line or "digest" in line or "_UNITS" in line]


def test_a_changed_container_port_is_shown_although_the_target_group_is_a_new_one() -> None:
    text = str(plan(spec(), spec(port=8080)))

    assert "+ create target group" in text
    assert "port: 3000 → 8080" in text


def test_a_revision_that_only_records_other_options_shows_them() -> None:
    assert lines(spec(), spec(cpu=1024)) == ["cpu: default → 1024"]


def test_the_same_version_with_other_files_is_shown_as_such() -> None:
    assert lines(spec(), spec(replace(V1, fingerprint="f9"))) == ["model files: f1 → f9"]


def test_another_model_is_shown_by_its_uri() -> None:
    other = replace(V2, resolved_uri="models:/fraud/2", name="fraud")

    assert lines(spec(), spec(other)) == ["model: models:/churn/1 → models:/fraud/2"]


def test_json_keeps_the_properties_with_all_details() -> None:
    (task,) = (item for item in plan(spec(), spec(V2, "b")).as_dict()["changes"] if item["kind"] == "task definition")

    assert {item["property"] for item in task["differences"]} == {"image", "label"}


def test_a_deregistered_revision_and_a_failed_rollout_say_what_happens_next() -> None:
    changed = plan(spec(), spec())
    found = {(item.resource_type, item.name): item.found for item in changed.changes if item.found}
    for key, seen in found.items():
        if isinstance(seen.properties, TaskProperties):
            found[key] = replace(seen, properties=replace(seen.properties, status="INACTIVE"))
        if isinstance(seen.properties, ServiceProperties):
            found[key] = replace(seen, properties=replace(seen.properties, rollout="failed"))

    text = str(make_plan(deployment_resources(spec()), found))

    assert "revision: inactive → registered again" in text
    assert "last rollout: failed → retried" in text


def test_an_update_that_stops_following_is_warned_about() -> None:
    note = follow_note(plan(spec(), spec(V2, "b", follow="pinned")))

    assert note is not None
    assert "follow: Production → pinned" in note
    assert "-C follow=Production" in note


@pytest.mark.parametrize(
    ("before", "after"), [("pinned", "Production"), ("Production", "@champion"), ("pinned", "pinned")]
)
def test_an_update_that_goes_on_following_is_not_warned_about(before: str, after: str) -> None:
    assert follow_note(plan(spec(follow=before), spec(V2, "b", follow=after))) is None


def test_notes_come_first() -> None:
    noted = replace(plan(spec(), spec(V2, "b")), notes=("warning: follow",))

    assert str(noted).splitlines()[0] == "warning: follow"

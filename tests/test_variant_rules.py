"""What can be a variant, and which shares of the requests are possible: decided without AWS."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflow_fargate.config import NamedOptions, parse_config
from mlflow_fargate.deployment import DeploymentStatus
from mlflow_fargate.deployments.rules import (
    check_change,
    check_share,
    check_variant,
    inherited,
    new_shares,
    signature_differences,
)
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.resolved_model import Provenance
from mlflow_fargate.resources import DeploymentSpec, EndpointSpec, Network, deployment_resources

GROUP = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/mine/0123456789abcdef"


def deployed(name: str = "churn", **options: Any) -> DeploymentStatus:
    return DeploymentStatus(
        name, "default", "http://lb/churn", "http://lb/churn", "COMPLETED", "", 1, 1, "image",
        Provenance("", "", "", ""), parse_config(options), "pinned", "arn", "", "",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variant_of": "churn", "strategy": "canary"}, "variant_of cannot be used with strategy=canary"),
        ({"variant_of": "churn", "strategy": "blue_green"}, "variant_of cannot be used with strategy=blue_green"),
        ({"variant_of": "churn", "host": "churn.example.com"}, "host cannot be used with variant_of"),
        ({"variant_of": "churn", "target_group_arn": GROUP, "security_groups": "sg-1"}, "target_group_arn cannot"),
        ({"traffic": "10"}, "traffic requires variant_of"),
        ({"variant_of": "churn", "traffic": "10", "wait": "false"}, "traffic requires variant_of, and wait=true"),
        ({"variant_of": "churn", "traffic": "101"}, "Option traffic='101': must be at most 100"),
        ({"variant_of": "churn", "traffic": "-1"}, "Option traffic='-1': must be at least 0"),
        ({"variant_of": "churn", "traffic": "0.5"}, "Option traffic='0.5': must be a whole number"),
    ],
)
def test_impossible_options_of_a_variant_are_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidOption, match=said.replace("(", r"\(")):
        NamedOptions.parse(options).over()


@pytest.mark.parametrize("name", ["challenger", "churn", "churn-", "churnchallenger", "churn_challenger"])
def test_the_name_of_a_variant_begins_with_that_of_its_deployment(name: str) -> None:
    with pytest.raises(InvalidOption, match="not a valid name for a variant of 'churn'"):
        check_variant(name, parse_config({"variant_of": "churn"}), deployed())


@pytest.mark.parametrize(
    ("champion", "options", "said"),
    [
        (deployed(strategy="canary"), {}, "'churn' has strategy=canary, so it cannot have variants"),
        (deployed(target_group_arn=GROUP, security_groups="sg-1"), {}, "'churn' has target_group_arn"),
        (deployed(variant_of="other"), {}, "'churn' has variant_of"),
        (deployed(), {"auth": "none"}, "auth is that of 'churn'"),
    ],
)
def test_only_a_rolling_deployment_with_its_own_rule_has_variants(
    champion: DeploymentStatus, options: dict[str, str], said: str
) -> None:
    with pytest.raises(InvalidOption, match=said):
        check_variant("churn-challenger", parse_config({"variant_of": "churn", **options}), champion)


def test_a_new_variant_has_the_access_and_network_of_its_deployment_and_its_own_size() -> None:
    champion = deployed(auth="none", subnets="subnet-1,subnet-2", cpu=2048, memory=4096)

    assert inherited(champion) == {"auth": "none", "subnets": ["subnet-1", "subnet-2"]}


def test_the_deployment_gets_what_its_variants_do_not() -> None:
    assert new_shares("churn", {"churn": 100, "churn-a": 0}, {"churn-a": 10}) == {"churn": 90, "churn-a": 10}
    now = {"churn": 70, "churn-a": 10, "churn-b": 20}
    assert new_shares("churn", now, {"churn-a": 0}) == {"churn": 80, "churn-b": 20}
    assert new_shares("churn", now, {"churn-a": 80}) == {"churn": 0, "churn-a": 80, "churn-b": 20}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"churn-a": 101}, "churn-a=101: a share is a whole number of percent from 0 to 100"),
        ({"churn-a": -1}, "churn-a=-1"),
        ({"churn-a": 60, "churn-b": 50}, "would get 110% of its requests: churn-a=60, churn-b=50"),
        ({f"churn-{letter}": 1 for letter in "abcde"}, "5 variants of 'churn' would get requests"),
    ],
)
def test_impossible_shares_are_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        new_shares("churn", {"churn": 100}, changes)


def test_a_variant_with_requests_cannot_be_scaled_to_no_task() -> None:
    night = parse_config({"variant_of": "churn", "max_count": 2, "schedule": {"night": "cron(0 20 * * ? *) 0"}})

    check_share("churn-a", night, 0)
    with pytest.raises(InvalidOption, match="needs a task at all times"):
        check_share("churn-a", parse_config({"variant_of": "churn", "desired_count": 0}), 1)
    with pytest.raises(InvalidOption, match="first set its share to 0: mlflow-fargate traffic --name churn churn-a=0"):
        check_share("churn-a", night, 25)


@pytest.mark.parametrize("options", [{"variant_of": ""}, {"variant_of": "other"}, {"port": "8099"}])
def test_a_variant_stays_one_and_keeps_its_target_group(options: dict[str, str]) -> None:
    before, named = deployed("churn-a", variant_of="churn"), NamedOptions(options)

    with pytest.raises(InvalidOption, match="cannot change variant_of, or the port of a variant"):
        check_change(before, named.over(before.settings), named)


def test_another_signature_is_described_by_its_columns() -> None:
    def metadata(*columns: dict[str, Any]) -> dict[str, Any]:
        return {"signature": {"inputs": json.dumps(columns), "outputs": '[{"type": "long"}]'}}

    age = {"name": "age", "type": "long"}
    before, after = metadata(age, {"name": "plan", "type": "string"}), metadata({**age, "type": "double"})

    assert signature_differences(before, before) == []
    assert signature_differences(before, after) == [
        'inputs lack {"name": "age", "type": "long"}',
        'inputs lack {"name": "plan", "type": "string"}',
        'inputs have {"name": "age", "type": "double"}',
    ]
    tensor = metadata({"tensor-spec": {"dtype": "float32", "shape": [-1, 28]}})
    assert 'inputs have {"tensor-spec": {"dtype": "float32", "shape": [-1, 28]}}' in signature_differences(
        before, tensor
    )
    assert signature_differences(before, {"signature": {"inputs": "[{", "outputs": 3}}) != []


def test_a_variant_has_its_own_resources_and_the_path_and_key_of_its_deployment() -> None:
    endpoint = EndpointSpec("default", Network("vpc-1", ("subnet-1",)), "us-east-1", "1" * 12)
    config = parse_config({"variant_of": "churn"})
    spec = DeploymentSpec("churn-challenger", endpoint, config, "image", Provenance("", "", "", ""), "pinned")

    names = {resource.resource_type: resource.name for resource in deployment_resources(spec)}

    assert names["API key"] == "mlflow-fargate/default/churn"
    assert names["variant rule"] == "/churn/* (challenger)"
    assert names["service"] == "churn-challenger"
    assert names["log group"] == "/mlflow-fargate/default/churn-challenger"
    assert not names.keys() & {"listener rule", "host rule", "test rule"}
    assert spec.environment["PATH_PREFIX"] == "/churn"
    assert spec.environment["MODEL_VARIANT"] == "challenger"
    assert spec.tags["mlflow-fargate:variant-of"] == "churn"

"""What a plan costs a month, computed by hand from the prices of one day."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from mlflow_fargate.config import parse_config
from mlflow_fargate.deployments.costs import estimate_cost, read_prices
from mlflow_fargate.plan import Found, Plan, Properties, Resource, make_plan
from mlflow_fargate.resolved_model import Provenance
from mlflow_fargate.resources import (
    DeploymentSpec,
    EndpointSpec,
    Network,
    deployment_resources,
    endpoint_resources,
)
from mlflow_fargate.resources.properties import ServiceProperties, TaskProperties

PRICES = read_prices()
ENDPOINT = EndpointSpec("default", Network("vpc-1", ("subnet-1", "subnet-2")), "us-east-2", "123456789012")
PROVENANCE = Provenance("models:/churn/1", "models:/churn/1", "f" * 32, "python_function")


def resources(**options: Any) -> list[Resource[Properties]]:
    config = parse_config({"cpu": 1024, "memory": 2048, "assign_public_ip": False, **options})
    network = replace(ENDPOINT.network, assigns_public_ip=bool(config.assign_public_ip))
    spec = DeploymentSpec("churn", replace(ENDPOINT, network=network), config, "image", PROVENANCE, "pinned")
    return [*endpoint_resources(ENDPOINT), *deployment_resources(spec)]


def plan_of(before: dict[str, Any] | None = None, **after: Any) -> Plan:
    """Of a new deployment, or of the change of one that was deployed with the options `before`."""
    found = {}
    for resource in resources(**before) if before is not None else ():
        properties = resource.properties
        if isinstance(properties, ServiceProperties):
            properties = replace(properties, current_count=properties.desired_count)
        found[resource.resource_type, resource.name] = Found("arn", properties)
    return make_plan(resources(**after), found)


def test_the_price_table_names_its_day_and_its_source() -> None:
    assert date.fromisoformat(PRICES.read_on) <= date.today()
    assert PRICES.source


def test_autoscaling_costs_from_its_fewest_tasks_to_its_most() -> None:
    estimate = estimate_cost(plan_of(min_count=2, max_count=5), "us-east-2", PRICES)

    assert (round(estimate.tasks, 2), round(estimate.tasks_most, 2)) == (72.08, 180.2)
    assert "72.08 to 180.20 (autoscaling" in str(estimate)


@pytest.mark.parametrize(
    ("options", "usd"),
    [
        ({}, 36.04),  # (0.04048 + 2 * 0.004445) * 730
        ({"architecture": "ARM64"}, 28.835),
        ({"desired_count": 3, "assign_public_ip": True}, 119.07),
        ({"cpu": 256, "memory": 512}, 9.01),
        ({"desired_count": 0}, 0.0),
    ],
)
def test_tasks_cost_their_size_their_number_and_their_addresses(options: dict[str, Any], usd: float) -> None:
    estimate = estimate_cost(plan_of(**options), "us-east-2", PRICES)

    assert estimate.tasks == pytest.approx(usd, abs=0.006)
    assert estimate.tasks_before is None
    assert round(estimate.endpoint, 2) == 16.43  # 0.0225 * 730: the load balancer is shared


def test_a_task_without_an_architecture_runs_on_what_aws_takes_by_default() -> None:
    plan = plan_of()
    wanted = [change.wanted for change in plan.changes if change.wanted]
    bare = [
        replace(item, properties=replace(item.properties, architecture=None))
        if isinstance(item.properties, TaskProperties)
        else item
        for item in wanted
    ]

    assert estimate_cost(make_plan(bare, {}), "us-east-2", PRICES) == estimate_cost(plan, "us-east-2", PRICES)


def test_a_change_shows_the_cost_before_and_after() -> None:
    told = str(estimate_cost(plan_of({}, desired_count=2), "us-east-2", PRICES))

    assert told == (
        "cost: about USD 36.04 → 72.08 per month, plus 16.43 for the shared endpoint "
        f"(on-demand prices in us-east-2 as of {PRICES.read_on})"
    )


def test_prices_of_another_region_are_said_to_be_so() -> None:
    assert "prices in eu-west-1 differ" in str(estimate_cost(plan_of(), "eu-west-1", PRICES))
    assert "differ" not in str(estimate_cost(plan_of(), "us-east-1", PRICES))


def test_other_prices_make_another_estimate() -> None:
    dearer = replace(PRICES, load_balancer_hour=1.0)

    assert estimate_cost(plan_of(), "us-east-2", dearer).endpoint == 730

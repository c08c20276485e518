"""What a plan costs a month, computed by hand from the prices of one day."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from mlflow_fargate.deployments.costs import estimate_cost, read_prices
from mlflow_fargate.plan import Found, Plan, Resource, make_plan

PRICES = read_prices()


def plan_of(before: dict[str, Any] | None = None, **after: Any) -> Plan:
    def split(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        task = {"cpu": 1024, "memory_mib": 2048, "architecture": "X86_64"}
        service = {"desired_count": 1, "assign_public_ip": False}
        return (
            {key: values.get(key, value) for key, value in task.items()},
            {key: values.get(key, value) for key, value in service.items()},
        )

    task, service = split(after)
    found = {}
    if before is not None:
        old_task, old_service = split(before)
        old_service["current_count"] = old_service["desired_count"]
        found = {("task definition", "t"): Found("t", old_task), ("service", "s"): Found("s", old_service)}
    wanted = [
        Resource("load balancer", "lb"),
        Resource("task definition", "t", task),
        Resource("service", "s", service),
    ]
    return make_plan(wanted, found)


def test_the_price_table_names_its_day_and_its_source() -> None:
    assert date.fromisoformat(PRICES.read_on) <= date.today()
    assert PRICES.source


def test_autoscaling_costs_from_its_fewest_tasks_to_its_most() -> None:
    wanted = [
        Resource("task definition", "t", {"cpu": 1024, "memory_mib": 2048, "architecture": "X86_64"}),
        Resource("service", "s", {"desired_count": None, "first_count": 2, "assign_public_ip": False}),
        Resource("autoscaling", "s", {"counts": [2, 5]}),
    ]

    estimate = estimate_cost(make_plan(wanted, {}), "us-east-2", PRICES)

    assert (round(estimate.tasks, 2), round(estimate.tasks_most, 2)) == (72.08, 180.2)
    assert "72.08 to 180.20 (autoscaling" in str(estimate)


@pytest.mark.parametrize(
    ("options", "usd"),
    [
        ({}, 36.04),  # (0.04048 + 2 * 0.004445) * 730
        ({"architecture": "ARM64"}, 28.835),
        ({"architecture": None}, 36.04),  # AWS's default
        ({"desired_count": 3, "assign_public_ip": True}, 119.07),
        ({"cpu": 256, "memory_mib": 512}, 9.01),
        ({"desired_count": 0}, 0.0),
    ],
)
def test_tasks_cost_their_size_their_number_and_their_addresses(options: dict[str, Any], usd: float) -> None:
    estimate = estimate_cost(plan_of(**options), "us-east-2", PRICES)

    assert estimate.tasks == pytest.approx(usd, abs=0.006)
    assert estimate.tasks_before is None
    assert round(estimate.endpoint, 2) == 16.43  # 0.0225 * 730: the load balancer is shared


def test_a_change_is_told_from_what_to_what() -> None:
    told = str(estimate_cost(plan_of({}, desired_count=2), "us-east-2", PRICES))

    assert told == (
        "cost: about USD 36.04 → 72.08 a month, and 16.43 for the shared endpoint "
        f"(on-demand prices of us-east-2, read {PRICES.read_on})"
    )


def test_prices_of_another_region_are_said_to_be_so() -> None:
    assert "those of eu-west-1 differ" in str(estimate_cost(plan_of(), "eu-west-1", PRICES))
    assert "differ" not in str(estimate_cost(plan_of(), "us-east-1", PRICES))


def test_other_prices_make_another_estimate() -> None:
    dearer = replace(PRICES, load_balancer_hour=1.0)

    assert estimate_cost(plan_of(), "us-east-2", dearer).endpoint == 730

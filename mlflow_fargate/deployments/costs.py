"""What a plan costs a month, from a price table kept as data (prices.json). Pure but for reading that file.

Only what runs by the hour: tasks, their public addresses, the endpoint's load balancer. Requests, traffic, logs, images
and secrets are left out, and so are discounts: an order of size, not a bill.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from mlflow_fargate.plan import Plan

_CPU_UNITS = 1024  # of one vCPU
_MIB = 1024  # in a GiB
_FREE_GIB = 20


@dataclass(frozen=True)
class Prices:
    """Prices by the hour in one region, and the day they were read."""

    read_on: str
    source: str
    region: str
    same_in: tuple[str, ...]
    hours_a_month: int
    vcpu_hour: Mapping[str, float] = field(hash=False)  # by CPU architecture
    gib_hour: Mapping[str, float] = field(hash=False)
    load_balancer_hour: float
    public_address_hour: float
    ephemeral_gib_hour: float  # beyond the 20 GiB that are free


@dataclass(frozen=True)
class Estimate:
    """A month before and after a plan, in US dollars; `before` is None where nothing runs yet."""

    tasks_before: float | None
    tasks: float  # of the fewest tasks, where autoscaling counts them
    tasks_most: float  # of the most
    endpoint: float  # the load balancer, which all deployments of an endpoint share
    prices_note: str

    def __str__(self) -> str:
        tasks = f"{self.tasks:.2f}"
        if self.tasks_before is not None and round(self.tasks_before, 2) != round(self.tasks, 2):
            tasks = f"{self.tasks_before:.2f} → {tasks}"
        if self.tasks_most > self.tasks:
            tasks += f" to {self.tasks_most:.2f} (autoscaling; what a schedule saves is not counted)"
        return f"cost: about USD {tasks} a month, and {self.endpoint:.2f} for the shared endpoint ({self.prices_note})"


def read_prices() -> Prices:
    """The table that comes with this package."""
    table = json.loads(files("mlflow_fargate.deployments").joinpath("prices.json").read_text(encoding="utf-8"))
    return Prices(**{**table, "same_in": tuple(table["same_in"])})


def estimate_cost(plan: Plan, region: str, prices: Prices) -> Estimate:
    """The month that `plan` leads to, and the one that it changes."""
    wanted = {change.kind: change.wanted.properties for change in plan.changes if change.wanted}
    found = {change.kind: change.found.properties for change in plan.changes if change.found}
    runs = {"task definition", "service"} <= found.keys()
    scaling = wanted.get("autoscaling", {})
    low, high = scaling.get("counts") or 2 * [wanted["service"]["desired_count"]]
    balancer = prices.load_balancer_hour * prices.hours_a_month
    return Estimate(
        tasks_before=_task_a_month(found, prices) * found["service"]["current_count"] if runs else None,
        tasks=_task_a_month(wanted, prices) * low,
        tasks_most=_task_a_month(wanted, prices) * high,
        endpoint=balancer if "load balancer" in wanted else 0.0,
        prices_note=_note(region, prices, is_spot=wanted["service"].get("capacity", {}).get("spot", False)),
    )


def _task_a_month(properties: Mapping[str, Mapping[str, Any]], prices: Prices) -> float:
    """Of one task."""
    task, service = properties["task definition"], properties["service"]
    architecture = task["architecture"] or "X86_64"  # AWS's own default
    hour = task["cpu"] / _CPU_UNITS * prices.vcpu_hour[architecture]
    hour += task["memory_mib"] / _MIB * prices.gib_hour[architecture]
    hour += max((task.get("ephemeral_storage_gib") or 0) - _FREE_GIB, 0) * prices.ephemeral_gib_hour
    if service["assign_public_ip"]:
        hour += prices.public_address_hour
    return float(hour * prices.hours_a_month)


def _note(region: str, prices: Prices, *, is_spot: bool) -> str:
    elsewhere = "" if region in {prices.region, *prices.same_in} else f"; those of {region} differ"
    elsewhere += "; on spare capacity tasks cost up to 70 % less" if is_spot else ""
    return f"on-demand prices of {prices.region}, read {prices.read_on}{elsewhere}"

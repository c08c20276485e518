"""Monthly cost of a plan, from a price table (prices.json). Pure, except for reading that file.

Counts what is billed by the hour (tasks, their public addresses, the endpoint's load balancer), alarms, and the writes
of a record of predictions. Requests, traffic, storage, logs, images, secrets and discounts are not included: an
estimate, not a bill.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TypeVar

from mlflow_fargate.plan import Plan, Properties
from mlflow_fargate.resources.balancer_properties import LoadBalancerProperties
from mlflow_fargate.resources.properties import AlarmProperties, ScalingProperties, ServiceProperties, TaskProperties

_CPU_UNITS = 1024  # of one vCPU
_MIB = 1024  # in a GiB
_FREE_GIB = 20
_METRIC = re.compile(r"[a-z]+\d")  # in a formula
_PUTS_AN_HOUR = 60  # of a record of predictions, which is written every minute
P = TypeVar("P", bound=Properties)


@dataclass(frozen=True)
class Prices:
    """Hourly prices in one region, and the day they were read."""

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
    alarm_metric_month: float  # for each metric in an alarm's formula
    s3_put: float


@dataclass(frozen=True)
class Estimate:
    """Monthly cost before and after a plan, in US dollars."""

    tasks_before: float | None  # None: nothing runs yet
    tasks: float  # with autoscaling, of the fewest tasks
    tasks_most: float  # with autoscaling, of the most tasks
    endpoint: float  # the load balancer, shared by all deployments of an endpoint
    alarms: float
    prices_note: str

    def __str__(self) -> str:
        tasks = f"{self.tasks:.2f}"
        if self.tasks_before is not None and round(self.tasks_before, 2) != round(self.tasks, 2):
            tasks = f"{self.tasks_before:.2f} → {tasks}"
        if self.tasks_most > self.tasks:
            tasks += f" to {self.tasks_most:.2f} (autoscaling; savings from a schedule are not included)"
        alarms = f", {self.alarms:.2f} for alarms" if self.alarms else ""
        return (
            f"cost: about USD {tasks} per month{alarms}, plus {self.endpoint:.2f} for the shared endpoint "
            f"({self.prices_note})"
        )


def read_prices() -> Prices:
    """Returns the price table of this package."""
    table = json.loads(files("mlflow_fargate.deployments").joinpath("prices.json").read_text(encoding="utf-8"))
    return Prices(**{**table, "same_in": tuple(table["same_in"])})


def estimate_cost(plan: Plan, region: str, prices: Prices) -> Estimate:
    """Returns the monthly cost before and after `plan`."""
    wanted = [change.wanted.properties for change in plan.changes if change.wanted]
    found = [change.found.properties for change in plan.changes if change.found]
    task, service = _one(TaskProperties, wanted), _one(ServiceProperties, wanted)
    task_before, before = _one(TaskProperties, found), _one(ServiceProperties, found)
    assert task and service  # noqa: S101  # a deployment has both
    scaling = _one(ScalingProperties, wanted)
    kept = before.current_count if before else service.first_count
    count = kept if service.desired_count is None else service.desired_count
    low, high = scaling.counts if scaling else 2 * (count or 0,)
    balancer = prices.load_balancer_hour * prices.hours_a_month
    a_task = _task_a_month(task, service, prices)
    runs_now = None
    if task_before and before:
        runs_now = _task_a_month(task_before, before, prices) * (before.current_count or 0)
    return Estimate(
        tasks_before=runs_now,
        tasks=a_task * low,
        tasks_most=a_task * high,
        endpoint=balancer if _one(LoadBalancerProperties, wanted) else 0.0,
        alarms=prices.alarm_metric_month * sum(_metrics_of(item) for item in wanted),
        prices_note=_note(region, prices, is_spot=service.capacity.spot),
    )


def _one(properties: type[P], among: Sequence[Properties]) -> P | None:
    return next((item for item in among if isinstance(item, properties)), None)


def _metrics_of(properties: Properties) -> int:
    """How many metrics an alarm evaluates: those in its formula; of other resources, none."""
    return len(set(_METRIC.findall(properties.formula))) if isinstance(properties, AlarmProperties) else 0


def _task_a_month(task: TaskProperties, service: ServiceProperties, prices: Prices) -> float:
    """Cost of one task."""
    architecture = task.architecture or "X86_64"  # AWS's own default
    hour = task.cpu / _CPU_UNITS * prices.vcpu_hour[architecture]
    hour += task.memory_mib / _MIB * prices.gib_hour[architecture]
    hour += max((task.ephemeral_storage_gib or 0) - _FREE_GIB, 0) * prices.ephemeral_gib_hour
    if service.assign_public_ip:
        hour += prices.public_address_hour
    if "INFERENCE_LOG" in task.environment:
        hour += _PUTS_AN_HOUR * prices.s3_put
    return hour * prices.hours_a_month


def _note(region: str, prices: Prices, *, is_spot: bool) -> str:
    elsewhere = "" if region in {prices.region, *prices.same_in} else f"; prices in {region} differ"
    elsewhere += "; Spot tasks cost up to 70% less" if is_spot else ""
    return f"on-demand prices in {prices.region} as of {prices.read_on}{elsewhere}"

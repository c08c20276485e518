"""Metric queries, as of alarms and GetMetricData, answered from the load balancer's counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_fargate.local.cloudwatch.expression import NotSupported, Value, value_at
from mlflow_fargate.local.load_balancer.counts import TrafficCounts


def read(counts: TrafficCounts, queries: Sequence[Mapping[str, Any]], start: float, end: float) -> dict[str, Value]:
    """Returns each query's value of [start, end), by ID; NotSupported if one is not on a target group."""
    values: dict[str, Value] = {}
    for query in sorted(queries, key=lambda query: bool(query.get("Expression"))):  # formulas use the others
        if query.get("Expression"):
            values[query["Id"]] = value_at(query["Expression"], values)
            continue
        metric, statistic = query["MetricStat"]["Metric"], query["MetricStat"]["Stat"]
        group = {one["Name"]: one["Value"] for one in metric.get("Dimensions") or ()}.get("TargetGroup")
        if metric.get("Namespace") != "AWS/ApplicationELB" or group is None:
            raise NotSupported(metric["MetricName"])
        values[query["Id"]] = counts.value(metric["MetricName"], statistic, group, start, end)
    return values


def period_of(queries: Sequence[Mapping[str, Any]]) -> int:
    """Returns the period of the queries in seconds."""
    return max((int(query["MetricStat"]["Period"]) for query in queries if query.get("MetricStat")), default=60)

"""CloudWatch: recent requests, latency and errors of a deployment.

The load balancer counts them per target group:
https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-cloudwatch-metrics.html
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from mlflow_fargate.aws.ecs_service import describe_service
from mlflow_fargate.aws.resource_types.load_balancer import find_load_balancer
from mlflow_fargate.aws.resource_types.monitoring.alarms import dimensions
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.aws.timestamps import iso
from mlflow_fargate.deployment import Traffic
from mlflow_fargate.errors import AwsError

_SHORTEST_MINUTES = 5
_MOST_STEPS = 72
_METRICS = {
    "requests": ("RequestCount", "Sum"),
    "errors": ("HTTPCode_Target_5XX_Count", "Sum"),
    "p50": ("TargetResponseTime", "p50"),
    "p99": ("TargetResponseTime", "p99"),
}


def read_traffic(session: AwsSession, cluster: str, service: str, now: datetime, hours: int) -> list[Traffic]:
    """Returns the last hours in at most 72 steps of equal length, oldest first; the last one goes on.

    Empty without requests or permission.
    """
    groups = _groups(describe_service(session, cluster, service) or {})
    balancer = find_load_balancer(session, cluster)  # both have this name
    if balancer is None or not groups:
        return []
    minutes = _SHORTEST_MINUTES * math.ceil(hours * 60 / _MOST_STEPS / _SHORTEST_MINUTES)
    step, count = timedelta(minutes=minutes), hours * 60 // minutes
    end = datetime.fromtimestamp((now.timestamp() // step.total_seconds() + 1) * step.total_seconds(), now.tzinfo)
    places = [dimensions(balancer["LoadBalancerArn"], group) for group in groups]
    try:
        answer = session.call(
            "cloudwatch",
            "get_metric_data",
            MetricDataQueries=[
                _query(f"{key}_{number}", place, minutes * 60)
                for key in _METRICS
                for number, place in enumerate(places)
            ],
            StartTime=end - count * step,
            EndTime=end,
            ScanBy="TimestampAscending",
        )
    except AwsError as error:
        # Only shown next to more important facts: without this permission, just the traffic is missing.
        if error.code.startswith("AccessDenied"):
            return []
        raise
    found: dict[str, dict[str, list[float]]] = {key: {} for key in _METRICS}
    for result in answer["MetricDataResults"]:
        for at, value in zip(map(iso, result["Timestamps"]), result["Values"], strict=True):
            found[result["Id"].partition("_")[0]].setdefault(at, []).append(value)
    if not any(map(any, found["requests"].values())):
        return []
    return [_step(iso(end - number * step), found, minutes) for number in range(count, 0, -1)]


def _groups(service: Mapping[str, Any]) -> list[str]:
    """Both target groups if traffic is shifted: versions alternate between them."""
    balancer: Mapping[str, Any] = next(iter(service.get("loadBalancers", ())), {})
    alternate = (balancer.get("advancedConfiguration") or {}).get("alternateTargetGroupArn")
    return [arn for arn in (balancer.get("targetGroupArn"), alternate) if arn]


def _step(at: str, found: Mapping[str, Mapping[str, Sequence[float]]], minutes: int) -> Traffic:
    """Of two target groups, the sum of the counts, and the slower latencies."""
    return Traffic(
        at=at,
        minutes=minutes,
        requests=int(sum(found["requests"].get(at, ()))),
        errors=int(sum(found["errors"].get(at, ()))),
        p50_seconds=max(found["p50"].get(at, ()), default=None),
        p99_seconds=max(found["p99"].get(at, ()), default=None),
    )


def _query(identity: str, place: list[dict[str, str]], period: int) -> dict[str, Any]:
    name, statistic = _METRICS[identity.partition("_")[0]]
    metric = {"Namespace": "AWS/ApplicationELB", "MetricName": name, "Dimensions": place}
    return {"Id": identity, "MetricStat": {"Metric": metric, "Period": period, "Stat": statistic}}

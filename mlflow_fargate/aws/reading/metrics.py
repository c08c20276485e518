"""CloudWatch: recent requests, latency and errors of a deployment.

The load balancer counts them per target group:
https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-cloudwatch-metrics.html
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from mlflow_fargate.aws.ecs_service import describe_service
from mlflow_fargate.aws.resource_types.load_balancer import find_load_balancer
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.aws.timestamps import iso
from mlflow_fargate.deployment import Traffic
from mlflow_fargate.errors import AwsError

_PERIOD = timedelta(minutes=5)
_SPAN = timedelta(hours=3)
_METRICS = {
    "requests": ("RequestCount", "Sum"),
    "errors": ("HTTPCode_Target_5XX_Count", "Sum"),
    "latency": ("TargetResponseTime", "p95"),
}


def read_traffic(session: AwsSession, cluster: str, service: str, now: datetime) -> list[Traffic]:
    """Returns the last three hours in steps of five minutes, oldest first; empty without requests or permission."""
    described = describe_service(session, cluster, service) or {}
    balancer = find_load_balancer(session, cluster)  # both have this name
    groups = [item["targetGroupArn"] for item in described.get("loadBalancers", []) if "targetGroupArn" in item]
    if balancer is None or not groups:
        return []
    end = datetime.fromtimestamp(now.timestamp() // _PERIOD.total_seconds() * _PERIOD.total_seconds(), now.tzinfo)
    try:
        answer = session.call(
            "cloudwatch",
            "get_metric_data",
            MetricDataQueries=[_query(key, _dimensions(balancer["LoadBalancerArn"], groups[0])) for key in _METRICS],
            StartTime=end - _SPAN,
            EndTime=end,
            ScanBy="TimestampAscending",
        )
    except AwsError as error:
        # Only shown next to more important facts: without this permission, just the traffic is missing.
        if error.code.startswith("AccessDenied"):
            return []
        raise
    found = {
        result["Id"]: dict(zip(map(iso, result["Timestamps"]), result["Values"], strict=True))
        for result in answer["MetricDataResults"]
    }
    if not any(found.get("requests", {}).values()):
        return []
    steps = [iso(end - _SPAN + number * _PERIOD) for number in range(int(_SPAN / _PERIOD))]
    return [_step(at, found) for at in steps]


def _step(at: str, found: Mapping[str, Mapping[str, float]]) -> Traffic:
    latency = found.get("latency", {}).get(at)
    return Traffic(
        at=at,
        requests=int(found.get("requests", {}).get(at, 0)),
        errors=int(found.get("errors", {}).get(at, 0)),
        p95_seconds=latency,
    )


def _query(key: str, dimensions: list[dict[str, str]]) -> dict[str, Any]:
    name, statistic = _METRICS[key]
    metric = {"Namespace": "AWS/ApplicationELB", "MetricName": name, "Dimensions": dimensions}
    return {"Id": key, "MetricStat": {"Metric": metric, "Period": int(_PERIOD.total_seconds()), "Stat": statistic}}


def _dimensions(balancer: str, group: str) -> list[dict[str, str]]:
    """CloudWatch identifies them by the ends of their ARNs: app/NAME/ID and targetgroup/NAME/ID."""
    return [
        {"Name": "LoadBalancer", "Value": balancer.partition(":loadbalancer/")[2]},
        {"Name": "TargetGroup", "Value": group.rpartition(":")[2]},
    ]

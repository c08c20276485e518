"""The chart of `status`: the query to CloudWatch, and the chart of its response."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.cli import main
from mlflow_fargate.cli.deployment.traffic import sparkline, traffic_lines
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployment import Traffic
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import AwsError
from support.deployer import QUICK, TARGET, create


def test_a_sparkline_has_a_bar_for_each_value_and_a_blank_for_none() -> None:
    assert sparkline([0, 1, 2, 7, None]) == "▁▂▃█ "
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""


def test_the_chart_says_sums_and_extremes() -> None:
    lines = traffic_lines([Traffic("a", 10, 0, 0.012), Traffic("b", 60, 2, 1.5), Traffic("c", 0, 0, None)])

    assert lines[1:] == [
        "  requests     ▂█▁  70 in total, up to 12 per minute",
        "  p95 latency  ▁█   up to 1.5 s",
        "  5xx errors   ▁█▁  2 in total",
    ]
    assert traffic_lines([]) == []


def answering(monkeypatch: pytest.MonkeyPatch, values: dict[str, float], asked: list[dict[str, Any]]) -> None:
    """Lets CloudWatch tell `values` of the first five minutes; everything else is the local stack's AWS."""
    call = AwsSession.call

    def answer(session: AwsSession, service: str, operation: str, /, **parameters: Any) -> dict[str, Any]:
        if service != "cloudwatch":
            return call(session, service, operation, **parameters)
        asked.append(parameters)
        at = parameters["StartTime"]
        results = [{"Id": key, "Timestamps": [at], "Values": [value]} for key, value in values.items()]
        return {"MetricDataResults": results}

    monkeypatch.setattr(AwsSession, "call", answer)


def test_the_traffic_of_a_deployment_is_that_of_its_target_group(
    deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(deployer)
    asked: list[dict[str, Any]] = []
    answering(monkeypatch, {"requests": 120.0, "errors": 3.0, "latency": 0.25}, asked)

    found = deployer.endpoint.traffic("churn")

    assert len(found) == 36
    assert (found[0].requests, found[0].errors, found[0].p95_seconds) == (120, 3, 0.25)
    assert (found[1].requests, found[1].errors, found[1].p95_seconds) == (0, 0, None)
    dimensions = asked[0]["MetricDataQueries"][0]["MetricStat"]["Metric"]["Dimensions"]
    assert [item["Value"].split("/")[0] for item in dimensions] == ["app", "targetgroup"]
    assert asked[0]["EndTime"] - asked[0]["StartTime"] == timedelta(hours=3)
    assert asked[0]["EndTime"] <= datetime.now(timezone.utc)


def test_without_data_or_the_right_to_read_it_there_is_no_chart(
    deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(deployer)
    assert deployer.endpoint.traffic("churn") == []

    def refuse(*_: Any, **__: Any) -> None:
        raise AwsError("no", operation="cloudwatch:GetMetricData", code="AccessDenied")

    monkeypatch.setattr(
        "mlflow_fargate.aws.reading.metrics.describe_service", lambda *_: {"loadBalancers": [{"targetGroupArn": "a:b"}]}
    )
    monkeypatch.setattr(
        "mlflow_fargate.aws.reading.metrics.find_load_balancer", lambda *_: {"LoadBalancerArn": "a:loadbalancer/app"}
    )
    monkeypatch.setattr(AwsSession, "call", refuse)
    assert deployer.endpoint.traffic("churn") == []


def test_status_draws_the_traffic(plugged_in: Deployer, monkeypatch: pytest.MonkeyPatch) -> None:
    plugged_in.create("churn", "models:/churn/1", None, NamedOptions(QUICK))
    answering(monkeypatch, {"requests": 60.0, "latency": 0.02}, [])

    said = CliRunner().invoke(main, ["status", "-t", TARGET, "--name", "churn"]).output

    assert "  requests     █" in said
    assert "60 in total, up to 12 per minute" in said

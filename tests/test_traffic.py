"""The chart of `status`: the query to CloudWatch, and the chart of its response."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.cli import main
from mlflow_fargate.cli.deployment.traffic_chart import sparkline, traffic_lines
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
    steps = [(10, 0, 0.012, 0.1), (60, 2, 1.5, 3.0), (0, 0, None, None)]
    lines = traffic_lines([Traffic("at", 20, *step) for step in steps])

    assert lines == [
        "last 1 hour, one bar per 20 minutes (CloudWatch)",
        "  requests     ▂█▁  70 in total, up to 3 per minute",
        "  p50 latency  ▁█   up to 1.5 s",
        "  p99 latency  ▁█   up to 3.0 s",
        "  5xx errors   ▁█▁  2 in total (2.9%)",
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
        results = [{"Id": f"{key}_0", "Timestamps": [at], "Values": [value]} for key, value in values.items()]
        return {"MetricDataResults": results}

    monkeypatch.setattr(AwsSession, "call", answer)


def test_the_traffic_of_a_deployment_is_that_of_its_target_group(
    deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(deployer)
    asked: list[dict[str, Any]] = []
    answering(monkeypatch, {"requests": 120.0, "errors": 3.0, "p50": 0.1, "p99": 0.25}, asked)

    found = deployer.endpoint.traffic("churn")

    assert len(found) == 36
    assert (found[0].requests, found[0].errors, found[0].p50_seconds, found[0].p99_seconds) == (120, 3, 0.1, 0.25)
    assert (found[1].requests, found[1].errors, found[1].p50_seconds, found[1].p99_seconds) == (0, 0, None, None)
    dimensions = asked[0]["MetricDataQueries"][0]["MetricStat"]["Metric"]["Dimensions"]
    assert [item["Value"].split("/")[0] for item in dimensions] == ["app", "targetgroup"]
    assert asked[0]["EndTime"] - asked[0]["StartTime"] == timedelta(hours=3)
    assert timedelta() < asked[0]["EndTime"] - datetime.now(timezone.utc) <= timedelta(minutes=5)


def test_without_data_or_the_right_to_read_it_there_is_no_chart(
    deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(deployer)
    with monkeypatch.context() as patch:
        answering(patch, {}, [])
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
    answering(monkeypatch, {"requests": 60.0, "p50": 0.02}, [])

    said = CliRunner().invoke(main, ["status", "-t", TARGET, "--name", "churn"]).output

    assert "  requests     █" in said
    assert "60 in total, up to 12 per minute" in said


@pytest.mark.parametrize("strategy", ["rolling", "blue_green"])
def test_metrics_draws_what_the_local_load_balancer_counted(plugged_in: Deployer, strategy: str) -> None:
    name = strategy.replace("_", "-")
    shifting = {} if strategy == "rolling" else {"strategy": strategy, "bake_time_minutes": 0, "test_green": False}
    plugged_in.create(name, "models:/churn/1", None, NamedOptions({**QUICK, **shifting}))
    command = ["metrics", "-t", TARGET, "--name", name]
    silent = CliRunner().invoke(main, command)
    url = plugged_in.get(name).url
    for number in range(20):
        if number == 10:  # blue/green: the next requests are counted in the other target group
            plugged_in.update(name, None, None, NamedOptions({"environment.VERSION": 2}))
        requests.get(f"{url}/anything", timeout=10).raise_for_status()
    requests.post(f"{url}/anything", data="not JSON", timeout=10)  # the task cuts the connection: 502

    said = CliRunner().invoke(main, [*command, "--hours", "24"])
    found = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)

    assert "no requests in the last 3 hours" in silent.output or "in total" in silent.output  # ready, asked by create
    assert said.exit_code == 0
    assert "last 24 hours, one bar per 20 minutes (CloudWatch)" in said.output
    assert "p99 latency" in said.output
    assert sum(step["requests"] for step in found) >= 21
    assert sum(step["errors"] for step in found) == 0
    assert max(step["p99_seconds"] or 0 for step in found) >= max(step["p50_seconds"] or 0 for step in found) > 0

"""CloudWatch as the gateway serves it: metrics of target groups from the load balancer's counts, the rest from moto.

moto starts alarms as OK, fails on percentiles, and accepts any dashboard; here they are as on AWS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_fargate.local.api.protocol import AwsRequest, Forward, Response, json_response
from mlflow_fargate.local.cloudwatch.expression import NotSupported
from mlflow_fargate.local.cloudwatch.metrics import period_of, read
from mlflow_fargate.local.load_balancer.counts import TrafficCounts
from mlflow_fargate.local.moto_client import MotoClient

_NEW = {"StateValue": "INSUFFICIENT_DATA", "StateReason": "Unchecked: Initial alarm creation"}


class CloudWatchApi:
    """Responds to requests to CloudWatch."""

    def __init__(self, counts: TrafficCounts, aws: MotoClient, forward: Forward) -> None:
        self._counts = counts
        self._aws = aws
        self._forward = forward

    def __call__(self, request: AwsRequest) -> Response:
        if request.operation == "PutMetricAlarm":
            return self._put_alarm(request)
        if request.operation == "GetMetricData":
            try:
                return json_response(self._metric_data(request.parameters))
            except NotSupported:
                pass
        return self._forward(request)

    def _put_alarm(self, request: AwsRequest) -> Response:
        """Creates an alarm without data; one that exists keeps its state."""
        client, name = self._aws.client("cloudwatch"), request.parameters.get("AlarmName", "")
        known = client.describe_alarms(AlarmNames=[name])["MetricAlarms"]
        response = self._forward(request)
        if not response.is_error:
            state = {key: known[0][key] for key in _NEW} if known else _NEW
            client.set_alarm_state(AlarmName=name, **state)
        return response

    def _metric_data(self, given: Mapping[str, Any]) -> dict[str, Any]:
        queries = given["MetricDataQueries"]
        start, end, period = int(given["StartTime"]), int(given["EndTime"]), period_of(queries)
        steps = [(at, read(self._counts, queries, at, at + period)) for at in range(start, end, period)]
        if given.get("ScanBy", "TimestampDescending") == "TimestampDescending":
            steps.reverse()
        results = []
        for query in (query for query in queries if query.get("ReturnData", True)):
            points = [(at, values[query["Id"]]) for at, values in steps if values[query["Id"]] is not None]
            times, found = [at for at, _ in points], [value for _, value in points]
            results.append({"Id": query["Id"], "Label": query.get("Label") or query["Id"], "Timestamps": times,
                            "Values": found, "StatusCode": "Complete"})  # fmt: skip
        return {"MetricDataResults": results, "Messages": []}

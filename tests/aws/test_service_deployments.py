"""ECS's records of rollouts, in whatever order and on whatever page ECS lists them."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from mlflow_fargate.aws import service_deployments

NOW = datetime(2026, 11, 24, tzinfo=timezone.utc)
RECORDS = [
    {"serviceDeploymentArn": f"arn:{age}", "status": "SUCCESSFUL", "createdAt": NOW - timedelta(hours=age)}
    for age in (1, 2, 3)
]


class PagingSession:
    """Lists `records` in their order, two on a page."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.records = records

    def call(self, service: str, operation: str, /, **parameters: Any) -> dict[str, Any]:
        assert (service, operation) == ("ecs", "list_service_deployments")
        start = int(parameters.get("nextToken", 0))
        end = start + min(2, parameters["maxResults"])
        more = {"nextToken": str(end)} if end < len(self.records) else {}
        return {"serviceDeployments": self.records[start:end], **more}


@pytest.mark.parametrize("records", [list(order) for order in itertools.permutations(RECORDS)])
def test_the_newest_record_is_the_newest_in_any_order(records: list[dict[str, Any]]) -> None:
    session: Any = PagingSession(records)

    assert service_deployments.newest(session, "cluster", "churn") == RECORDS[0]
    assert service_deployments.list_all(session, "cluster", "churn") == RECORDS


def test_without_records_there_is_no_newest() -> None:
    session: Any = PagingSession([])

    assert service_deployments.newest(session, "cluster", "churn") is None

"""ECS's records of rollouts, in any order and on any page that ECS lists them, and what decides without them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from mlflow_fargate.aws import service_deployments
from mlflow_fargate.aws.resource_types.service import rollout_state
from mlflow_fargate.aws.rollouts.watch_shift import ShiftWatch
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.deployment import RequestedRollout
from mlflow_fargate.errors import AwsError, RolloutTimeout
from mlflow_fargate.progress import RecordedProgress

NOW = datetime(2026, 11, 24, tzinfo=timezone.utc)
RECORDS = [
    {"serviceDeploymentArn": f"arn:{age}", "status": "SUCCESSFUL", "createdAt": NOW - timedelta(hours=age)}
    for age in (1, 2, 3)
]


LONG_AGO = NOW - timedelta(days=120)


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


@dataclass
class ServiceSession:
    """One service that shifts traffic, its records, and as many healthy targets as tasks."""

    service: dict[str, Any]
    records: list[dict[str, Any]] = field(default_factory=list)
    refusal: AwsError | None = None
    own_changes: dict[Any, Any] = field(default_factory=dict)
    find = AwsSession.find

    def call(self, service: str, operation: str, /, **parameters: Any) -> dict[str, Any]:
        if operation == "list_service_deployments":
            if self.refusal:
                raise self.refusal
            return {"serviceDeployments": self.records}
        if operation == "describe_target_health":
            is_blue = parameters["TargetGroupArn"] == "arn:blue"
            count = self.service["runningCount"] if is_blue else 0
            healthy = {"Target": {"Id": "172.31.0.1"}, "TargetHealth": {"State": "healthy"}}
            return {"TargetHealthDescriptions": [healthy] * count}
        assert operation == "describe_services"
        return {"services": [self.service]}


def service(*tasks: tuple[int, int], desired: int = 2) -> dict[str, Any]:
    """A service with its rollouts, newest first: (running, desired) tasks of each."""
    rollouts = [
        {
            "id": f"ecs-svc/{number}",
            "status": "ACTIVE" if number else "PRIMARY",
            "createdAt": LONG_AGO,
            "taskDefinition": "arn:churn:1",
            "runningCount": running,
            "desiredCount": wanted,
        }
        for number, (running, wanted) in enumerate(tasks)
    ]
    balancer = {"targetGroupArn": "arn:blue", "advancedConfiguration": {"alternateTargetGroupArn": "arn:green"}}
    return {
        "clusterArn": "arn:cluster",
        "serviceName": "churn",
        "status": "ACTIVE",
        "createdAt": LONG_AGO,
        "desiredCount": desired,
        "runningCount": sum(running for running, _ in tasks),
        "deploymentConfiguration": {"strategy": "BLUE_GREEN"},
        "deployments": rollouts,
        "loadBalancers": [balancer],
        "tags": [],
    }


DENIED = AwsError("no", operation="ecs:ListServiceDeployments", code="AccessDeniedException")


@pytest.mark.parametrize("refusal", [None, DENIED])
@pytest.mark.parametrize(
    ("shown", "state"),
    [
        (service((2, 2)), "COMPLETED"),
        (service((0, 0), desired=0), "COMPLETED"),
        (service((1, 2)), "IN_PROGRESS"),
        (service((2, 2), (2, 2)), "IN_PROGRESS"),
    ],
)
def test_without_a_record_its_tasks_decide_whether_a_shift_is_done(
    shown: dict[str, Any], state: str, refusal: AwsError | None
) -> None:
    session: Any = ServiceSession(shown, refusal=refusal)

    assert rollout_state(session, shown) == state


# Of an earlier rollout than the one that runs, whose own record is gone.
OLDER = {"serviceDeploymentArn": "arn:1", "status": "SUCCESSFUL", "createdAt": LONG_AGO - timedelta(days=1)}


@pytest.mark.parametrize("records", [[], [OLDER]])
def test_scaling_is_done_although_no_record_of_the_rollout_is_left(records: list[dict[str, Any]]) -> None:
    session: Any = ServiceSession(service((1, 2)), records)
    rollout = RequestedRollout("ecs-svc/0", "arn:churn:1", LONG_AGO)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        session.service = service((2, 2))

    watch = ShiftWatch(session, "cluster", "churn", rollout, RecordedProgress(), lambda: float(len(slept)), sleep)
    watch.wait_until_rolled_out(5)

    assert len(slept) == 1


def test_a_rollout_whose_record_lags_is_not_done_while_the_previous_one_runs() -> None:
    session: Any = ServiceSession(service((0, 0), (2, 2)), [OLDER])
    rollout = RequestedRollout("ecs-svc/0", "arn:churn:2", LONG_AGO)
    times = iter(range(100))

    watch = ShiftWatch(session, "cluster", "churn", rollout, RecordedProgress(), lambda: next(times), lambda _: None)
    with pytest.raises(RolloutTimeout):
        watch.wait_until_rolled_out(5)

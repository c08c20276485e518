"""ECS's records of a service's rollouts, kept for 90 days. For strategies that shift traffic they are the only source:
such services have no `rolloutState`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError

_LAG = timedelta(minutes=10)
INACCURACY = timedelta(seconds=2)  # between the times of a service or its rollout and of the record
GIVEN_UP = frozenset(
    {"ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED", "ROLLBACK_IN_PROGRESS", "ROLLBACK_REQUESTED", "STOPPED"}
)
# As a service's rolloutState: after a rollback it serves the previous version.
_STATES = {
    "SUCCESSFUL": "COMPLETED",
    "ROLLBACK_SUCCESSFUL": "COMPLETED",
    "ROLLBACK_FAILED": "FAILED",
    "STOPPED": "FAILED",
}


def newest(session: AwsSession, cluster: str, service: str) -> dict[str, Any] | None:
    """Returns the newest record, in brief; None if there is none, or the caller lacks the permission."""
    try:
        return next(iter(list_all(session, cluster, service)), None)
    except AwsError as error:
        # Policies of earlier releases do not allow this: a failure then shows only in the rollout's own error.
        if error.code.startswith("AccessDenied"):
            return None
        raise


def list_all(session: AwsSession, cluster: str, service: str, *statuses: str) -> list[dict[str, Any]]:
    """Returns every record in brief, or those with one of the statuses, newest first.

    ECS documents no order, and botocore has no paginator.
    """
    more: dict[str, Any] = {"status": list(statuses)} if statuses else {}
    found: list[dict[str, Any]] = []
    cluster = cluster.rpartition("/")[2]
    while True:
        answer = session.call(
            "ecs", "list_service_deployments", cluster=cluster, service=service, maxResults=100, **more
        )
        found += answer["serviceDeployments"]
        if not answer.get("nextToken"):
            return sorted(found, key=lambda item: item["createdAt"], reverse=True)
        more["nextToken"] = answer["nextToken"]


def describe(session: AwsSession, arn: str) -> dict[str, Any]:
    """Returns the full record: stage, hooks, and how the traffic is split."""
    answer = session.call("ecs", "describe_service_deployments", serviceDeploymentArns=[arn])
    found: dict[str, Any] = answer["serviceDeployments"][0]
    return found


def task_definition_of(session: AwsSession, revision_arn: str) -> str | None:
    """Returns the task definition of a service revision; None if ECS no longer has it."""
    answer = session.call("ecs", "describe_service_revisions", serviceRevisionArns=[revision_arn])
    return next((str(revision["taskDefinition"]) for revision in answer["serviceRevisions"]), None)


def state_of(deployment: Mapping[str, Any]) -> str:
    """Returns COMPLETED, FAILED or IN_PROGRESS."""
    return _STATES.get(deployment["status"], "IN_PROGRESS")


def has_ended(brief: Mapping[str, Any] | None, began: datetime) -> bool:
    """Returns whether the newest record of a service, whose newest rollout `began` then, will never change."""
    if brief is None:  # too old to be kept, or not allowed to be read; of a new rollout it may be missing for seconds
        return datetime.now(timezone.utc) - began > _LAG
    is_of_this = brief["createdAt"] > began - INACCURACY
    return is_of_this and brief["status"] in ("SUCCESSFUL", "ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED", "STOPPED")


def has_shifted(deployment: Mapping[str, Any]) -> bool:
    """Returns whether all traffic reaches the new tasks; the old ones may still run, ready for a rollback."""
    is_baking = deployment.get("lifecycleStage") in ("BAKE_TIME", "CLEAN_UP")
    return deployment["status"] == "SUCCESSFUL" or (is_baking and deployment["status"] == "IN_PROGRESS")


def traffic_shares(deployment: Mapping[str, Any]) -> dict[str, float]:
    """Returns the percentage of the traffic by the ARN of each service revision; empty before a second one gets any."""
    revisions = [*deployment.get("sourceServiceRevisions", ()), deployment.get("targetServiceRevision", {})]
    weights = {item["arn"]: item.get("requestedProductionTrafficWeight") for item in revisions if "arn" in item}
    shares = {arn: float(weight) for arn, weight in weights.items() if weight is not None}
    return shares if len(shares) > 1 else {}


def stage_of(deployment: Mapping[str, Any]) -> str:
    """Returns 'BAKE_TIME: 100% of the traffic on the new tasks'; empty if no traffic is shifted."""
    stage = deployment.get("lifecycleStage")
    percent = deployment.get("targetServiceRevision", {}).get("requestedProductionTrafficWeight")
    if not stage:
        return ""
    return stage if percent is None else f"{stage}: {percent:g}% of the traffic on the new tasks"

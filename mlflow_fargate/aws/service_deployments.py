"""ECS: its records of a service's rollouts, whoever looks and however late; for strategies that shift traffic the only
ones, for such services tell no `rolloutState`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError

GIVEN_UP = frozenset(
    {"ROLLBACK_SUCCESSFUL", "ROLLBACK_FAILED", "ROLLBACK_IN_PROGRESS", "ROLLBACK_REQUESTED", "STOPPED"}
)
# What a service's own rolloutState would be called: after a rollback it serves the version before.
_STATES = {
    "SUCCESSFUL": "COMPLETED",
    "ROLLBACK_SUCCESSFUL": "COMPLETED",
    "ROLLBACK_FAILED": "FAILED",
    "STOPPED": "FAILED",
}


def newest(session: AwsSession, cluster: str, service: str) -> dict[str, Any] | None:
    """The newest record, in short; None when there is none, or the caller may not know."""
    try:
        answer = session.call("ecs", "list_service_deployments", cluster=cluster, service=service, maxResults=1)
    except AwsError as error:
        # Old permissions know nothing of service deployments: a failure is then told by the rollout's own error only.
        if error.code.startswith("AccessDenied"):
            return None
        raise
    found: list[dict[str, Any]] = answer["serviceDeployments"]
    return found[0] if found else None


def list_all(session: AwsSession, cluster: str, service: str, *statuses: str) -> Iterator[Mapping[str, Any]]:
    """Every record in short, or those with one of the statuses, newest first. botocore has no paginator for this."""
    more: dict[str, Any] = {"status": list(statuses)} if statuses else {}
    while True:
        answer = session.call(
            "ecs", "list_service_deployments", cluster=cluster, service=service, maxResults=100, **more
        )
        yield from answer["serviceDeployments"]
        if not answer.get("nextToken"):
            return
        more["nextToken"] = answer["nextToken"]


def describe(session: AwsSession, arn: str) -> dict[str, Any]:
    """The whole record: its stage, its hooks, and who gets how much of the traffic."""
    answer = session.call("ecs", "describe_service_deployments", serviceDeploymentArns=[arn])
    found: dict[str, Any] = answer["serviceDeployments"][0]
    return found


def task_definition_of(session: AwsSession, revision_arn: str) -> str | None:
    """The task definition of a service revision; None when ECS has forgotten it."""
    answer = session.call("ecs", "describe_service_revisions", serviceRevisionArns=[revision_arn])
    return next((str(revision["taskDefinition"]) for revision in answer["serviceRevisions"]), None)


def state_of(deployment: Mapping[str, Any] | None) -> str:
    """COMPLETED, FAILED or IN_PROGRESS."""
    return _STATES.get(deployment["status"], "IN_PROGRESS") if deployment else "IN_PROGRESS"


def tell_shift(deployment: Mapping[str, Any]) -> str:
    """'BAKE_TIME: 100 % of the traffic on the new tasks'; empty where no traffic is shifted."""
    stage = deployment.get("lifecycleStage")
    percent = deployment.get("targetServiceRevision", {}).get("requestedProductionTrafficWeight")
    if not stage:
        return ""
    return stage if percent is None else f"{stage}: {percent:g} % of the traffic on the new tasks"

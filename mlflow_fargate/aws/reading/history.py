"""ECS's records of a deployment: revisions and how their rollouts ended, events, and tasks. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from itertools import islice, takewhile
from typing import Any

from mlflow_fargate.aws import service_deployments, tags
from mlflow_fargate.aws.ecs_service import describe_service
from mlflow_fargate.aws.resource_types.task_definition import LOST, TaskDefinitionType, read_label
from mlflow_fargate.aws.rollouts.stopped_tasks import read_stopped_tasks
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.aws.timestamps import iso, iso_or_none
from mlflow_fargate.config import read_config
from mlflow_fargate.deployment import Revision, ServiceEvent, TaskStatus
from mlflow_fargate.errors import AwsError
from mlflow_fargate.resources import CONTAINER

# On a revision: the start of the rollout that was left, the revision that `rollback` goes to, and "done" at the end.
LEFT_TAG = "mlflow-fargate:rolled-back"
_REVISIONS_A_CALL = 20
_TASKS_A_CALL = 100
_EXPLAINED_TASKS = 3
# ECS only rolls back to a revision whose rollout has completed.
_COMPLETED = ("SUCCESSFUL", "ROLLBACK_SUCCESSFUL")
# "Service deployments that were created after October 25, 2024 are kept for 90 days" (ECS developer guide).
_REMEMBERED = timedelta(days=90)
_ROLLING_OUT = timedelta(hours=1)
_LOOK_BACK = 20
_STATES = {"SUCCESSFUL": "COMPLETED", "PENDING": "IN_PROGRESS", "IN_PROGRESS": "IN_PROGRESS"}


def read_revisions(session: AwsSession, cluster: str, service: str, limit: int) -> list[Revision]:
    """Returns the newest `limit` revisions, newest first, without those that were registered by hand."""
    described = describe_service(session, cluster, service)
    if described is None:
        return []
    current = described["taskDefinition"]
    rollouts = _rollouts(session, cluster, service)
    definitions = TaskDefinitionType(session)
    family = current.rpartition("/")[2].rpartition(":")[0]
    revisions = (_revision(definitions.describe(arn), current, rollouts) for arn in definitions.revisions(family))
    return list(islice((revision for revision in revisions if revision is not None), limit))


def never_rolled_out(session: AwsSession, cluster: str, service: str, now: datetime) -> list[str]:
    """Returns the ARNs of revisions that killed updates registered: newer than the current one, without any rollout.

    Not of the last hour, in which a command may still roll it out, nor from before ECS's oldest records.
    """
    current = (describe_service(session, cluster, service) or {}).get("taskDefinition", "")
    family = current.rpartition("/")[2].rpartition(":")[0]
    if next(TaskDefinitionType(session).revisions(family), current) == current:
        return []
    revisions = read_revisions(session, cluster, service, _LOOK_BACK)
    if all(revision.state == "UNKNOWN" for revision in revisions):  # rollouts cannot be listed
        return []
    newer = takewhile(lambda revision: not revision.is_current, revisions)
    oldest, newest = iso(now - _REMEMBERED), iso(now - _ROLLING_OUT)
    return [it.task_definition for it in newer if it.state == "UNKNOWN" and oldest < it.registered_at < newest]


def mark_left(session: AwsSession, revision: Revision, to: Revision, *, is_done: bool) -> None:
    """Records on a revision that `rollback` goes, or went, back from its newest rollout; a later one is not meant."""
    mark = f"{revision.rolled_out_at or ''} {to.number}{' done' if is_done else ''}"
    session.call("ecs", "tag_resource", resourceArn=revision.task_definition, tags=tags.small({LEFT_TAG: mark}))


def read_events(session: AwsSession, cluster: str, service: str) -> list[ServiceEvent]:
    """Returns the last hundred events, which is what ECS keeps, and why its last tasks failed, oldest first."""
    described = describe_service(session, cluster, service) or {}
    events = [
        ServiceEvent(event["id"], iso(event["createdAt"]), event["message"]) for event in described.get("events", [])
    ]
    failures = [
        ServiceEvent(task.id, task.stopped_at, ": ".join((task.summary, *task.explaining_lines(1))))
        for task in read_stopped_tasks(session, cluster, service, count=_EXPLAINED_TASKS)
        if task.exit_code
    ]
    return sorted([*events[::-1], *failures], key=lambda event: event.at)


def read_tasks(session: AwsSession, cluster: str, service: str) -> list[TaskStatus]:
    """Returns running and starting tasks, then stopped ones (ECS lists them for an hour), each newest first."""
    found: list[TaskStatus] = []
    for status in ("RUNNING", "STOPPED"):
        listed = session.pages(
            "ecs", "list_tasks", "taskArns", cluster=cluster, serviceName=service, desiredStatus=status
        )
        arns = list(listed)
        described = [
            task
            for batch in _batches(arns, _TASKS_A_CALL)
            for task in session.call("ecs", "describe_tasks", cluster=cluster, tasks=batch)["tasks"]
        ]
        found += [_task(task) for task in sorted(described, key=lambda task: iso(task["createdAt"]), reverse=True)]
    return found


def was_rolled_out(session: AwsSession, cluster: str, service: str) -> bool:
    """Returns whether any rollout of the service ever completed; False if there is no such service.

    Also returns True without the permission to read its history, and for services older than the history.
    """
    described = describe_service(session, cluster, service)
    if described is None:
        return False
    try:
        records = list(service_deployments.list_all(session, cluster, service, *_COMPLETED))
    except AwsError as error:
        if error.code.startswith("AccessDenied"):
            return True
        raise
    return has_completed(described, records, datetime.now(timezone.utc))


def has_completed(service: Mapping[str, Any], records: Iterable[Mapping[str, Any]], now: datetime) -> bool:
    """Returns whether a described service ever completed a rollout, from its service deployments and its state."""
    if now - service["createdAt"] > _REMEMBERED:
        return True
    if any(rollout.get("rolloutState") == "COMPLETED" for rollout in service.get("deployments", ())):
        return True
    # A deleted service had the same ARN, and its records are kept.
    return any(
        record["status"] in _COMPLETED and record["createdAt"] > service["createdAt"] - service_deployments.INACCURACY
        for record in records
    )


def state_of(statuses: Sequence[str]) -> str:
    """Returns a revision's state from its service deployments' statuses (newest first): COMPLETED if any was."""
    states = [_STATES.get(status, "FAILED") for status in statuses]
    if not states:
        return "UNKNOWN"
    return states[0] if states[0] == "IN_PROGRESS" or "COMPLETED" not in states else "COMPLETED"


def _rollouts(session: AwsSession, cluster: str, service: str) -> list[dict[str, Any]]:
    """Service deployments with their `taskDefinition`, newest first; empty without the permission to list them."""
    try:
        listed = service_deployments.list_all(session, cluster, service)
        arns = sorted({item["targetServiceRevisionArn"] for item in listed})
        revisions = [
            revision
            for batch in _batches(arns, _REVISIONS_A_CALL)
            for revision in session.call("ecs", "describe_service_revisions", serviceRevisionArns=batch)[
                "serviceRevisions"
            ]
        ]
    except AwsError as error:
        if error.code.startswith("AccessDenied"):
            return []
        raise
    definition_of = {revision["serviceRevisionArn"]: revision["taskDefinition"] for revision in revisions}
    named = ({**item, "taskDefinition": definition_of.get(item["targetServiceRevisionArn"])} for item in listed)
    return [item for item in named if item["taskDefinition"]]


def _revision(described: Mapping[str, Any], current: str, rollouts: Sequence[Mapping[str, Any]]) -> Revision | None:
    label = read_label(described)
    if label in (None, LOST):
        return None
    arn = described["taskDefinitionArn"]
    own = [item for item in rollouts if item["taskDefinition"] == arn]
    rolled_out_at = iso(own[0]["createdAt"]) if own else None
    completed = next((item for item in own if item["status"] == "SUCCESSFUL"), None)
    began, _, went = tags.read(described["tags"]).get(LEFT_TAG, "").partition(" ")
    to, _, done = went.partition(" ")
    is_left = began == (rolled_out_at or "") and to == _went_to(own, rollouts, current)
    return Revision(
        number=int(described["revision"]),
        task_definition=arn,
        state=state_of([item["status"] for item in own]),
        is_current=arn == current,
        image=described["containerDefinitions"][0]["image"],
        provenance=label.provenance,
        settings=read_config(label.settings),
        registered_at=iso(described.get("registeredAt", "")),
        registered_by=described.get("registeredBy", ""),
        rolled_out_at=rolled_out_at,
        completed_at=iso(completed["createdAt"]) if completed else None,
        was_left=is_left or (bool(own) and own[0]["status"].startswith("ROLLBACK")),
        unfinished_rollback_to=int(to) if is_left and not done else None,
    )


def _went_to(own: Sequence[Mapping[str, Any]], rollouts: Sequence[Mapping[str, Any]], current: str) -> str | None:
    """The number of the revision that replaced a revision's newest rollout; None if ECS went back from that one.

    A record can lag behind its rollout: then it is the current revision.
    """
    later = [item for item in rollouts if own and item["createdAt"] > own[0]["createdAt"]]
    if later and later[-1]["status"].startswith("ROLLBACK"):
        return None
    return str(later[-1]["taskDefinition"] if later else current).rpartition(":")[2]


def _task(task: Mapping[str, Any]) -> TaskStatus:
    container: Mapping[str, Any] = next((item for item in task.get("containers", []) if item["name"] == CONTAINER), {})
    return TaskStatus(
        id=task["taskArn"].rpartition("/")[2],
        state=task["lastStatus"],
        revision=int(task["taskDefinitionArn"].rpartition(":")[2]),
        started_at=iso_or_none(task.get("startedAt")),
        stopped_at=iso_or_none(task.get("stoppedAt")),
        stopped_reason=task.get("stoppedReason"),
        exit_code=container.get("exitCode"),
    )


def _batches(items: Sequence[str], size: int) -> Iterable[list[str]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]

"""CloudWatch Logs: a deployment's log group, the last lines of a task, and all lines since a point in time.

The group is created here because the execution role can write to it, but cannot create groups.
"""

from __future__ import annotations

from collections.abc import Iterator

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.deployment import LogLine
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources import CONTAINER
from mlflow_fargate.resources.properties import LogGroupProperties


class LogGroupType(ResourceType[LogGroupProperties]):
    """`/mlflow-fargate/ENDPOINT/NAME`, with a retention in days."""

    def observe(self, resource: Resource[LogGroupProperties], ids: Ids) -> Found[LogGroupProperties] | None:
        groups = self._session.pages("logs", "describe_log_groups", "logGroups", logGroupNamePrefix=resource.name)
        group = next((group for group in groups if group["logGroupName"] == resource.name), None)
        if group is None:
            return None
        arn = group["arn"].removesuffix(":*")
        are_ours = tags.are_ours(self._session.call("logs", "list_tags_for_resource", resourceArn=arn)["tags"])
        return Found(arn, LogGroupProperties(group.get("retentionInDays")), are_ours)

    def create(self, resource: Resource[LogGroupProperties], ids: Ids) -> str:
        self._session.call("logs", "create_log_group", logGroupName=resource.name, tags=dict(resource.tags))
        self._retain(resource)
        return resource.name

    def change(self, resource: Resource[LogGroupProperties], found: Found[LogGroupProperties], ids: Ids) -> str:
        self._retain(resource)
        return found.identifier

    def delete(self, found: Found[Properties]) -> None:
        name = found.identifier.partition(":log-group:")[2]
        self._session.delete("logs", "delete_log_group", logGroupName=name)

    def _retain(self, resource: Resource[LogGroupProperties]) -> None:
        days = resource.properties.retention_days
        self._session.call("logs", "put_retention_policy", logGroupName=resource.name, retentionInDays=days)


def last_lines(session: AwsSession, group: str, stream: str, count: int = 20) -> list[str]:
    """Returns the last lines that a task wrote; empty if it wrote none."""
    answer = session.find(
        "logs", "get_log_events", logGroupName=group, logStreamName=stream, limit=count, startFromHead=False
    )
    return [event["message"].rstrip("\n") for event in answer["events"]] if answer else []


def lines_since(session: AwsSession, group: str, since_milliseconds: int, task: str | None = None) -> Iterator[LogLine]:
    """Yields every line of a group's tasks (or of one task) since a point in time, in order of time."""
    of_task = {"logStreamNames": [f"task/{CONTAINER}/{task}"]} if task else {}
    events = session.pages(
        "logs", "filter_log_events", "events", logGroupName=group, startTime=since_milliseconds, **of_task
    )
    for event in events:
        written_by = event["logStreamName"].rpartition("/")[2]
        yield LogLine(event["eventId"], event["timestamp"], written_by, event["message"].rstrip("\n"))

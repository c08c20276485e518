"""ECS: the tasks of a service that stopped, and the last lines that each wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_fargate.aws.resource_types.monitoring import logs
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.aws.timestamps import iso
from mlflow_fargate.errors import AwsError
from mlflow_fargate.resources import CONTAINER
from mlflow_fargate.stop_reasons import explaining_lines, hint_for_stop


@dataclass(frozen=True)
class StoppedTask:
    """A task that stopped, for a reason that ECS gives."""

    id: str
    stopped_at: str
    reason: str
    exit_code: int | None  # of the model's container
    last_lines: tuple[str, ...]  # empty if they cannot be read

    @property
    def summary(self) -> str:
        code = "" if self.exit_code is None else f" (exit code {self.exit_code})"
        return f"task {self.id} stopped: {self.reason}{code}"

    @property
    def hint(self) -> str | None:
        """What the user can do about it."""
        return hint_for_stop(self.reason, self.exit_code, self.last_lines)

    def explaining_lines(self, count: int) -> list[str]:
        """Returns the cause that the container named, or its last lines, at most `count`."""
        return explaining_lines(self.last_lines, count)


def read_stopped_tasks(
    session: AwsSession, cluster: str, service: str, *, count: int, deployment_id: str | None = None
) -> list[StoppedTask]:
    """Returns the last `count` of a service or of one of its rollouts, oldest first; ECS lists them for an hour.

    Empty if they cannot be read: they explain something that matters more.
    """
    try:
        listed = session.pages(
            "ecs", "list_tasks", "taskArns", cluster=cluster, serviceName=service, desiredStatus="STOPPED"
        )
        arns = list(listed)[:100]
        tasks = session.call("ecs", "describe_tasks", cluster=cluster, tasks=arns)["tasks"] if arns else []
    except AwsError:
        return []
    ours = [task for task in tasks if task.get("stoppedReason") and deployment_id in (None, task.get("startedBy"))]
    ours.sort(key=lambda task: str(task.get("stoppedAt", "")))
    return [_read(session, task) for task in ours[-count:]]


def _read(session: AwsSession, task: Mapping[str, Any]) -> StoppedTask:
    container: Mapping[str, Any] = next((item for item in task.get("containers", []) if item["name"] == CONTAINER), {})
    return StoppedTask(
        id=task["taskArn"].rpartition("/")[2],
        stopped_at=iso(task.get("stoppedAt", "")),
        # 'Essential container in task exited' is the task's reason; the container's, if any, says why.
        reason=container.get("reason") or task["stoppedReason"],
        exit_code=container.get("exitCode"),
        last_lines=tuple(_last_lines(session, task)),
    )


def _last_lines(session: AwsSession, task: Mapping[str, Any]) -> list[str]:
    try:
        described = session.call("ecs", "describe_task_definition", taskDefinition=task["taskDefinitionArn"])
        definition = described["taskDefinition"]["containerDefinitions"][0]
        options = definition["logConfiguration"]["options"]
        stream = f"{options['awslogs-stream-prefix']}/{CONTAINER}/{task['taskArn'].rpartition('/')[2]}"
        return logs.last_lines(session, options["awslogs-group"], stream)
    except (AwsError, KeyError):
        return []

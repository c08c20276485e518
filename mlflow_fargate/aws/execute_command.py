"""ECS Exec: opens a session with a running task, for AWS's session-manager-plugin.

The plugin implements the protocol of the sessions; the AWS CLI starts it in the same way. Its arguments are those of
awscli/customizations/ecs/executecommand.py.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.resources import CONTAINER

_AGENT = "ExecuteCommandAgent"


@dataclass(frozen=True)
class RunningTask:
    """A task that can run commands."""

    cluster: str
    id: str
    runtime_id: str  # of the model's container

    def cli_command(self, command: str, region: str) -> str:
        """Returns the AWS CLI command that runs `command` in this task."""
        return (
            f"aws ecs execute-command --region {region} --cluster {self.cluster} --task {self.id} "
            f"--container {CONTAINER} --interactive --command {shlex.quote(command)}"
        )


def choose_task(session: AwsSession, cluster: str, service: str, task: str | None) -> RunningTask:
    """Returns the newest running task of a service whose ID starts with `task`; InvalidOption if none runs commands."""
    arns = list(session.pages("ecs", "list_tasks", "taskArns", cluster=cluster, serviceName=service))
    meant = [arn for arn in arns if arn.rpartition("/")[2].startswith(task or "")]
    described = session.call("ecs", "describe_tasks", cluster=cluster, tasks=meant[:100])["tasks"] if meant else []
    running = [item for item in described if item["lastStatus"] == "RUNNING"]
    if not running:
        what = f"task '{task}'" if task else "task"
        raise InvalidOption(
            f"'{service}' has no running {what}.", hint=f"list its tasks with: mlflow-fargate status --name {service}"
        )
    able = [item for item in running if _has_agent(item)]
    if not able:
        raise InvalidOption(
            f"ECS Exec is off for '{service}', or its agent has not started yet.",
            hint="if the task just started, wait a minute and try again; otherwise turn on ECS Exec (this starts new "
            "tasks): mlflow deployments update … -C enable_execute_command=true "
            "-C task_role_arn=ROLE (a role with the policy in docs/iam/task.json)",
        )
    newest = max(able, key=lambda item: item["startedAt"])
    return RunningTask(cluster, newest["taskArn"].rpartition("/")[2], _container(newest)["runtimeId"])


def open_session(session: AwsSession, task: RunningTask, command: str, profile: str | None) -> list[str]:
    """Opens a session that runs `command` in the task; returns the arguments with which the plugin joins it."""
    answer = session.call(
        "ecs",
        "execute_command",
        cluster=task.cluster,
        task=task.id,
        container=CONTAINER,
        interactive=True,
        command=command,
    )
    request = {"Target": f"ecs:{task.cluster}_{task.id}_{task.runtime_id}"}
    return [
        json.dumps(answer["session"]),
        session.region,
        "StartSession",
        profile or "",
        json.dumps(request),
        session.client("ecs").meta.endpoint_url,
    ]


def _has_agent(task: Mapping[str, Any]) -> bool:
    agents = _container(task).get("managedAgents", [])
    return any(agent["name"] == _AGENT and agent["lastStatus"] == "RUNNING" for agent in agents)


def _container(task: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((item for item in task.get("containers", []) if item["name"] == CONTAINER), {})

"""Operations on existing deployments: history, events, tasks, watching a rollout, scaling, a command in a task.

Functions on a `Deployer`, without any state.
"""

from __future__ import annotations

import shutil

from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployment import DeploymentStatus, Revision, ServiceEvent, TaskStatus
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import ToolMissing

_NONE = NamedOptions()
_PLUGIN_PAGE = (
    "https://docs.aws.amazon.com/systems-manager/latest/userguide/session-manager-working-with-install-plugin.html"
)


def history(deployer: Deployer, name: str, limit: int = 20) -> list[Revision]:
    """Returns the deployment's newest revisions, newest first; DeploymentNotFound if it does not exist."""
    deployer.get(name)
    return deployer.endpoint.revisions(name, limit)


def events(deployer: Deployer, name: str) -> list[ServiceEvent]:
    """Returns ECS's events on the deployment, oldest first; DeploymentNotFound if it does not exist."""
    deployer.get(name)
    return deployer.endpoint.events(name)


def tasks(deployer: Deployer, name: str) -> list[TaskStatus]:
    """Returns running tasks, then those that stopped within the last hour; DeploymentNotFound if it does not exist."""
    deployer.get(name)
    return deployer.endpoint.tasks(name)


def watch(deployer: Deployer, name: str, timeout_seconds: float) -> DeploymentStatus:
    """Waits for the current rollout to finish; raises RolloutFailed or RolloutTimeout like create and update."""
    status, rollouts = deployer.get(name), deployer.rollouts
    on_answer = None if status.state == "COMPLETED" else rollouts.note_answering(status.provenance.version)
    deployer.endpoint.wait_until_rolled_out(
        name, timeout_seconds, deployer.progress, rollouts.test_of(name), on_answer=on_answer
    )
    return deployer.get(name)


def open_command(deployer: Deployer, name: str, command: str, task: str | None = None) -> list[str]:
    """Returns the command line that runs `command` in a task of the deployment, through AWS's plugin.

    Raises ToolMissing before a session is opened if the plugin is not installed.
    """
    deployer.get(name)
    chosen = deployer.endpoint.runnable_task(name, task)
    plugin = deployer.target.environment.session_manager_plugin
    if shutil.which(plugin[0]) is None:
        raise ToolMissing(
            f"Running a command in a task requires AWS's '{plugin[0]}', which is not installed.",
            hint=f"install it: {_PLUGIN_PAGE}\n  or run this where it is installed, such as in AWS CloudShell: "
            + chosen.cli_command(command, deployer.account.region),
        )
    return [*plugin, *deployer.endpoint.open_command(chosen, command, deployer.target.profile)]


def scale(deployer: Deployer, name: str, count: int, options: NamedOptions = _NONE) -> DeploymentStatus:
    """Sets the number of tasks and waits until they are healthy: no new revision, no rollout.

    `options`: wait, timeout_seconds.
    """
    status = deployer.update(name, None, None, options.also(desired_count=count))
    return status or deployer.get(name)

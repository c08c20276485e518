"""The story after a deployment is there: what AWS remembers of it, its rollout, its scale, a command in a task.

Functions over a `Deployer`: nothing is kept here.
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
    """The deployment's newest revisions, newest first; DeploymentNotFound when there is none."""
    deployer.get(name)
    return deployer.endpoint.revisions(name, limit)


def events(deployer: Deployer, name: str) -> list[ServiceEvent]:
    """ECS's own words on the deployment, oldest first; DeploymentNotFound when there is none."""
    deployer.get(name)
    return deployer.endpoint.events(name)


def tasks(deployer: Deployer, name: str) -> list[TaskStatus]:
    """Tasks that run, then those that stopped within the last hour; DeploymentNotFound when there is none."""
    deployer.get(name)
    return deployer.endpoint.tasks(name)


def watch(deployer: Deployer, name: str, timeout_seconds: float) -> DeploymentStatus:
    """Follows the rollout under way to its end; RolloutFailed or RolloutTimeout as with create and update."""
    deployer.get(name)
    deployer.endpoint.wait_until_rolled_out(name, timeout_seconds, deployer.progress, deployer.rollouts.test_of(name))
    return deployer.get(name)


def open_command(deployer: Deployer, name: str, command: str, task: str | None = None) -> list[str]:
    """The command line that runs `command` in a task of the deployment: AWS's plugin, told which session to follow.

    ToolMissing, before a session is opened, where the plugin is not installed.
    """
    deployer.get(name)
    chosen = deployer.endpoint.runnable_task(name, task)
    plugin = deployer.target.environment.session_manager_plugin
    if shutil.which(plugin[0]) is None:
        raise ToolMissing(
            f"A command in a task needs AWS's '{plugin[0]}', which is not installed here.",
            hint=f"install it: {_PLUGIN_PAGE}\n  or run this where it is, as in AWS CloudShell: "
            + chosen.cli_command(command, deployer.account.region),
        )
    return [*plugin, *deployer.endpoint.open_command(chosen, command, deployer.target.profile)]


def scale(deployer: Deployer, name: str, count: int, options: NamedOptions = _NONE) -> DeploymentStatus:
    """The deployment with `count` tasks, healthy; no new revision, no rollout. `options`: wait, timeout_seconds."""
    status = deployer.update(name, None, None, options.also(desired_count=count))
    return status or deployer.get(name)

"""`mlflow-fargate exec`: a command in a task of a deployment, by ECS Exec."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys

import click

from mlflow_fargate.cli.deployment.options import deployer_at, deployment_options


@click.command(name="exec", context_settings={"ignore_unknown_options": True})
@deployment_options
@click.option("--task", help="The task whose id begins so (`status` shows them); by default the newest.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def exec_(target: str, name: str, task: str | None, command: tuple[str, ...]) -> None:
    """Run COMMAND in a task of a deployment, a shell where none is given: mlflow-fargate exec --name churn -- ls /opt

    The deployment has to allow it: -C enable_execute_command=true. AWS's session-manager-plugin has to be installed;
    it does not hand on the command's exit code, so this is 0 once the session has ended.
    """
    from mlflow_fargate.deployments import operations  # noqa: PLC0415

    follow = operations.open_command(deployer_at(target), name, shlex.join(command) or "/bin/sh", task)
    # Ctrl-C is the command's: the plugin sends it on. A handler, because what is ignored would be ignored there too.
    signal.signal(signal.SIGINT, lambda *_: None)
    sys.exit(subprocess.run(follow, check=False).returncode)

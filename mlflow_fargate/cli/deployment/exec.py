"""`mlflow-fargate exec`: runs a command in a task of a deployment, with ECS Exec."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys

import click

from mlflow_fargate.cli.deployment.options import deployer_at, deployment_options


@click.command(
    name="exec",
    context_settings={"ignore_unknown_options": True},
    short_help="Run a command or a shell in a task of a deployment.",
)
@deployment_options
@click.option("--task", help="Task ID or its first characters, as shown by `status`.  [default: the newest task]")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def exec_(target: str, name: str, task: str | None, command: tuple[str, ...]) -> None:
    """Run COMMAND (default: a shell) in a task of a deployment.

    \b
      mlflow-fargate exec --name churn -- ls /opt

    Requires a deployment with -C enable_execute_command=true, and AWS's session-manager-plugin on this machine. The
    plugin does not report COMMAND's exit code, so this command exits with 0 when the session ends.
    """
    from mlflow_fargate.deployments import operations  # noqa: PLC0415

    follow = operations.open_command(deployer_at(target), name, shlex.join(command) or "/bin/sh", task)
    # The plugin forwards Ctrl-C to the command. A handler, because child processes inherit SIG_IGN.
    signal.signal(signal.SIGINT, lambda *_: None)
    sys.exit(subprocess.run(follow, check=False).returncode)

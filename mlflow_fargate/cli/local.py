"""`mlflow-fargate local …`: the small AWS on this machine, for the target fargate:/local."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from mlflow_fargate.cli.extras import needed
from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.progress import progress_for_stderr
from mlflow_fargate.target import cache_directory, read_local_state


@click.group()
def local() -> None:
    """The small AWS on this machine: try everything without an account (target fargate:/local)."""


@local.command()
@click.option("--detach", "-d", is_flag=True, help="Return when it runs, and leave it running.")
@click.option("--serve-artifacts", is_flag=True, help="Let the tracking server pass artifacts on instead of S3 itself.")
def up(detach: bool, serve_artifacts: bool) -> None:
    """Start AWS, image registry, load balancer and MLflow; Ctrl-C stops them."""
    stack = _import_stack()
    if detach:
        state = stack.start_detached(cache_directory(), progress_for_stderr(), serve_artifacts=serve_artifacts)
        click.echo(stack.describe(state))
    else:
        stack.run(cache_directory(), progress_for_stderr(), serve_artifacts=serve_artifacts)


@local.command()
def down() -> None:
    """Stop the stack. Models, images and runs stay on disk; deployments end with it."""
    if _import_stack().stop_running(cache_directory(), progress_for_stderr()):
        click.echo("stopped")
    else:
        click.echo("the local stack was not running")


@local.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(as_json: bool) -> None:
    """What runs, and at which addresses; exit code 1 when nothing does."""
    state = read_local_state(cache_directory())
    if state is None:
        click.echo(
            "null" if as_json else "the local stack is not running; start it with: mlflow-fargate local up --detach"
        )
        sys.exit(1)
    shown = {name: value for name, value in state.items() if name != "secret_access_key"}
    click.echo(json.dumps(shown, indent=2) if as_json else _import_stack().describe(state))


@local.command()
def env() -> None:
    """Shell lines that point MLflow and the AWS tools to the stack: eval "$(mlflow-fargate local env)"."""
    state = read_local_state(cache_directory())
    if state is None:
        raise LocalStackError("The local stack is not running.", hint="mlflow-fargate local up --detach")
    for name, value in _import_stack().environment(state).items():
        click.echo(f"export {name}={value}")


def _import_stack() -> Any:
    with needed("local"):
        from mlflow_fargate.local import stack  # noqa: PLC0415
    return stack

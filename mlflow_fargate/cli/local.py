"""`mlflow-fargate local …`: the local stack, for the target fargate:/local."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import click

from mlflow_fargate.cli.deployment.options import command_progress, quiet_option
from mlflow_fargate.cli.extras import needed
from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.target import cache_directory, read_local_state


@click.group(short_help="Manage the local stack, which needs no AWS account.")
def local() -> None:
    """Manage the local stack, to which you can deploy (-t fargate:/local) without an AWS account."""


@local.command(short_help="Start the local stack.")
@click.option("--detach", "-d", is_flag=True, help="Run in the background, and return once it is ready.")
@click.option("--serve-artifacts", is_flag=True, help="Serve artifacts through the tracking server instead of S3.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "podman", "docker", "process"]),
    default="auto",
    show_default=True,
    help="What tasks run in: containers of this engine, or plain processes. auto picks the first one that works.",
)
@quiet_option
def up(detach: bool, serve_artifacts: bool, engine: str) -> None:
    """Start the local stack: AWS emulator, image registry, load balancer and MLflow. Ctrl-C stops it."""
    how = {"serve_artifacts": serve_artifacts, "engine": engine}
    if detach:
        running = _import("running")
        click.echo(running.describe(running.start_detached(cache_directory(), command_progress(), **how)))
    else:
        _import("stack").run(cache_directory(), command_progress(), **how)


@local.command(short_help="Stop the local stack.")
@quiet_option
def down() -> None:
    """Stop the local stack. Models, images and runs are kept; deployments are deleted."""
    if _import("running").stop_running(cache_directory(), command_progress()):
        click.echo("Stopped")
    else:
        click.echo("The local stack was not running")


@local.command(short_help="Show whether the local stack is running, and its addresses.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show whether the local stack is running, and its addresses.

    Exit code: 0 if it is running, otherwise 1.
    """
    state = read_local_state(cache_directory())
    if state is None:
        click.echo(
            "null" if as_json else "the local stack is not running; start it with: mlflow-fargate local up --detach"
        )
        sys.exit(1)
    shown = {name: value for name, value in state.items() if name != "secret_access_key"}
    click.echo(json.dumps(shown, indent=2) if as_json else _import("running").describe(state))


@local.command(short_help="Print shell exports for MLflow and AWS tools.")
def env() -> None:
    """Print shell exports that point MLflow and AWS tools at the local stack.

    \b
      eval "$(mlflow-fargate local env)"
    """
    state = read_local_state(cache_directory())
    if state is None:
        raise LocalStackError("The local stack is not running.", hint="start it with: mlflow-fargate local up --detach")
    for name, value in _import("running").environment(state).items():
        click.echo(f"export {name}={value}")


def _import(module: str) -> Any:
    with needed("local"):
        return importlib.import_module(f"mlflow_fargate.local.{module}")

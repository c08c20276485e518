"""`mlflow-fargate demo`: runs the whole life of a deployment on this machine."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from mlflow_fargate.cli.extras import needed


@click.command(short_help="Train, deploy, promote and redeploy a model on this machine.")
def demo() -> None:
    """Train, deploy, promote and redeploy a model on this machine, then clean up. No AWS account is needed.

    Takes five to ten minutes. Uses the running local stack, or starts one and stops it at the end, even after Ctrl-C.

    Exit code: 0 if every step succeeded.
    """
    with needed("local,webhook,demo"):
        story = import_module("mlflow_fargate.examples.demo")
    sys.exit(story.run_demo())

"""`mlflow-fargate demo`: the whole story on this machine."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from mlflow_fargate.cli.extras import needed


@click.command()
def demo() -> None:
    """Train, deploy, promote, redeploy and clean up, on this machine: no AWS account needed.

    Takes some minutes. Uses the local stack that runs, or starts one and stops it in the end, also after Ctrl-C.

    Exit code: 0 when all went as it should.
    """
    with needed("local,webhook,demo"):
        story = import_module("mlflow_fargate.examples.demo")
    sys.exit(story.run_demo())

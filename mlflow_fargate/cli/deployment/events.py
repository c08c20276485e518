"""`mlflow-fargate events`: shows the ECS events of a deployment."""

from __future__ import annotations

import click

from mlflow_fargate.cli.deployment.options import deployer_at, deployment_options, json_option, print_json, print_text
from mlflow_fargate.progress import shorten_arns


@click.command()
@deployment_options
@json_option
def events(target: str, name: str, as_json: bool) -> None:
    """Show the last 100 ECS events of a deployment, oldest first."""
    from mlflow_fargate.deployments import operations  # noqa: PLC0415

    found = operations.events(deployer_at(target), name)
    if as_json:
        print_json(found)
        return
    for event in found:
        print_text(f"{event.at}  {shorten_arns(event.message)}")

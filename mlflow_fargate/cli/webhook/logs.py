"""`mlflow-fargate webhook logs`: what the service on Fargate wrote."""

from __future__ import annotations

import click

from mlflow_fargate.cli.deployment.logs import log_options, print_lines
from mlflow_fargate.cli.deployment.options import deployer_at, target_option
from mlflow_fargate.resources import WEBHOOK


@click.command()
@target_option
@log_options
def logs(*, target: str, follow: bool, since: int, task: str | None, as_json: bool) -> None:
    """What the webhook service on Fargate wrote: each line with its time (UTC) and its task's first digits."""
    from mlflow_fargate.deployments.logs import read_logs  # noqa: PLC0415

    lines = read_logs(deployer_at(target), WEBHOOK, since, task=task, follow=follow)
    print_lines(lines, as_json=as_json)

"""`mlflow-fargate webhook logs`: prints the log of the service on Fargate."""

from __future__ import annotations

import click

from mlflow_fargate.cli.deployment.logs import log_options, print_lines
from mlflow_fargate.cli.deployment.options import deployer_at, target_option


@click.command(short_help="Print the log of the webhook service on Fargate.")
@target_option
@log_options
def logs(*, target: str, follow: bool, since: int, task: str | None, as_json: bool) -> None:
    """Print the log of the webhook service on Fargate, each line with its time (UTC) and a shortened task ID."""
    from mlflow_fargate.deployments.logs import read_logs  # noqa: PLC0415
    from mlflow_fargate.resources import WEBHOOK  # noqa: PLC0415

    lines = read_logs(deployer_at(target), WEBHOOK, since, task=task, follow=follow)
    print_lines(lines, as_json=as_json)

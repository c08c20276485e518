"""`mlflow-fargate metrics`: draws what the load balancer counted."""

from __future__ import annotations

import click

from mlflow_fargate.cli.deployment.options import deployer_at, deployment_options, json_option, print_json
from mlflow_fargate.cli.deployment.traffic_chart import traffic_lines

_MOST_HOURS = 63 * 24  # CloudWatch keeps data points of five minutes for 63 days


@click.command(short_help="Draw requests, errors and response times.")
@deployment_options
@click.option("--hours", type=click.IntRange(1, _MOST_HOURS), default=3, show_default=True, help="How far back.")
@json_option
def metrics(target: str, name: str, hours: int, as_json: bool) -> None:
    """Draw requests, errors and response times (p50 and p99) of the last hours, as the load balancer counted them."""
    deployer = deployer_at(target)
    deployer.get(name)
    traffic = deployer.endpoint.traffic(name, hours)
    if as_json:
        print_json(traffic)
        return
    nothing = f"no requests in the last {hours} hours, or no permission for cloudwatch:GetMetricData"
    click.echo("\n".join(traffic_lines(traffic) or [nothing]))

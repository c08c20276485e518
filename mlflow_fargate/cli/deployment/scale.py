"""`mlflow-fargate scale`: sets the number of tasks of a deployment."""

from __future__ import annotations

import click

from mlflow_fargate.cli.deployment.options import (
    deployer_at,
    deployment_options,
    print_text,
    quiet_option,
    timeout_option,
    wait_option,
)


@click.command(short_help="Set the number of tasks of a deployment.")
@deployment_options
@click.argument("count", type=click.IntRange(0, 5000))
@wait_option
@timeout_option
@quiet_option
def scale(target: str, name: str, count: int, wait: bool, timeout_seconds: int) -> None:
    """Set the number of tasks of a deployment.

    Running tasks are not replaced. With 0, all tasks stop: the deployment does not respond, and only the endpoint's
    load balancer still costs money.
    """
    from mlflow_fargate.config import NamedOptions  # noqa: PLC0415
    from mlflow_fargate.deployments import operations  # noqa: PLC0415

    options = NamedOptions({"wait": wait, "timeout_seconds": timeout_seconds})
    status = operations.scale(deployer_at(target), name, count, options)
    surplus = max(0, status.running_count - status.desired_count)
    are = "old task is" if surplus == 1 else "old tasks are"
    stopping = f"; {surplus} {are} still draining" if surplus else ""
    print_text(f"{name}: {status.running_count - surplus} of {status.desired_count} tasks running{stopping}")

"""`mlflow-fargate key`: shows how to call a deployment, and replaces its API key."""

from __future__ import annotations

import click

from mlflow_fargate.cli.deployment.options import (
    deployer_at,
    deployment_options,
    quiet_option,
    timeout_option,
    wait_option,
)


@click.command(short_help="Show how to call a deployment, or replace its API key.")
@deployment_options
@click.option("--rotate", "step", flag_value="rotate", help="Add a new key; the old one stays valid.")
@click.option("--finish", "step", flag_value="finish", help="Remove the old key, once callers use the new one.")
@wait_option
@timeout_option
@quiet_option
def key(target: str, name: str, step: str | None, wait: bool, timeout_seconds: int) -> None:
    """Show how to call a deployment with curl, Python and a browser. The key itself is not printed.

    To replace a key without downtime, run this command with --rotate, give callers the new key, and run it again with
    --finish. Both start a rollout: tasks read their keys when they start.
    """
    from mlflow_fargate.config import NamedOptions  # noqa: PLC0415
    from mlflow_fargate.deployments import keys  # noqa: PLC0415

    deployer = deployer_at(target)
    if step:
        options = NamedOptions({"wait": wait, "timeout_seconds": timeout_seconds})
        (keys.rotate if step == "rotate" else keys.finish)(deployer, name, options)
    click.echo(keys.usage(deployer, name))

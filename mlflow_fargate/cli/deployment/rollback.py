"""`mlflow-fargate rollback`: rolls back to an earlier revision."""

from __future__ import annotations

import click

from mlflow_fargate.cli.deployment.options import (
    deployer_at,
    deployment_options,
    quiet_option,
    timeout_option,
    wait_option,
)


@click.command(short_help="Roll back to an earlier revision.")
@deployment_options
@click.option(
    "--to",
    type=int,
    metavar="REVISION",
    help="Revision number, as shown by `history`.  [default: the latest earlier revision whose rollout completed]",
)
@wait_option
@click.option("--no-wait-for-drain", is_flag=True, help="Leave the old tasks to ECS once the new ones answer.")
@timeout_option
@quiet_option
def rollback(
    *, target: str, name: str, to: int | None, wait: bool, no_wait_for_drain: bool, timeout_seconds: int
) -> None:
    """Roll back to an earlier revision: its model, image and options. The number of tasks does not change.

    This starts a normal rollout and waits for it to finish. Afterward, the deployment is pinned, so the webhook service
    does not redeploy the newer version; a note in the output shows how to unpin it.
    """
    from mlflow_fargate.config import NamedOptions  # noqa: PLC0415
    from mlflow_fargate.deployments.roll_back import roll_back  # noqa: PLC0415

    options = NamedOptions({"wait": wait, "timeout_seconds": timeout_seconds, "wait_for_drain": not no_wait_for_drain})
    status = roll_back(deployer_at(target), name, to, options)
    click.echo(f"{name} rolled back to {status.provenance.resolved_uri} ({status.url})")

"""`mlflow-fargate rollback`: an earlier revision serves again."""

from __future__ import annotations

import click

from mlflow_fargate.cli.deployment.options import deployer_at, deployment_options, timeout_option, wait_option
from mlflow_fargate.config import NamedOptions


@click.command()
@deployment_options
@click.option(
    "--to", type=int, metavar="REVISION", help="A number that `history` shows; by default the last that completed."
)
@wait_option
@timeout_option
def rollback(target: str, name: str, to: int | None, wait: bool, timeout_seconds: int) -> None:
    """Serve an earlier revision again: its model, its image, its options; the number of tasks stays as it is.

    It is a rollout like any other, watched to its end. The deployment is pinned from then on, so that the webhook
    service does not bring the newer version back; the last line says how to let it follow again.
    """
    from mlflow_fargate.deployments.roll_back import roll_back  # noqa: PLC0415

    options = NamedOptions({"wait": wait, "timeout_seconds": timeout_seconds})
    status = roll_back(deployer_at(target), name, to, options)
    click.echo(f"{name} is back at {status.provenance.resolved_uri} ({status.url})")

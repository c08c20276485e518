"""`mlflow-fargate webhook undeploy`: deletes the service from Fargate."""

from __future__ import annotations

import click

from mlflow_fargate.cli.deployment.options import deployer_at, quiet_option, target_option


@click.command(short_help="Delete the webhook service from Fargate.")
@target_option
@quiet_option
def undeploy(target: str) -> None:
    """Delete the webhook service from Fargate, and everything created for it. Deployments are not affected."""
    from mlflow_fargate.deployments import webhook_service  # noqa: PLC0415

    webhook_service.delete(deployer_at(target))

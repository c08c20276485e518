"""`mlflow-fargate webhook undeploy`: removes the service from Fargate."""

from __future__ import annotations

import click

from mlflow_fargate.cli.deployment.options import deployer_at, target_option


@click.command()
@target_option
def undeploy(target: str) -> None:
    """Take the webhook service away from Fargate, with all that was made for it. Deployments stay as they are."""
    from mlflow_fargate.deployments import webhook_service  # noqa: PLC0415

    webhook_service.delete(deployer_at(target))

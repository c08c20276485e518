"""`mlflow-fargate webhook …`: the service that redeploys on promotion; one module per command."""

from __future__ import annotations

import click

from mlflow_fargate.cli.webhook.deploy import deploy
from mlflow_fargate.cli.webhook.logs import logs
from mlflow_fargate.cli.webhook.register import register
from mlflow_fargate.cli.webhook.retry import retry
from mlflow_fargate.cli.webhook.serve import serve
from mlflow_fargate.cli.webhook.status import status
from mlflow_fargate.cli.webhook.undeploy import undeploy


@click.group()
def webhook() -> None:
    """Manage the webhook service, which redeploys models on promotion."""


for _command in (serve, register, retry, deploy, undeploy, status, logs):
    webhook.add_command(_command)

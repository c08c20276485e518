"""The command `mlflow-fargate`: what MLflow's own command line has no verb for; one module a command or group.

    local     the small AWS on this machine          webhook   the service that redeploys
    schema    the options of a deployment as JSON schema or Markdown

Deploying itself is `mlflow deployments … -t fargate`. Commands import what they need when they run, because the local
stack and the webhook service are extras.
"""

from __future__ import annotations

import click

from mlflow_fargate.cli.local import local
from mlflow_fargate.cli.schema import schema
from mlflow_fargate.cli.webhook import webhook


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mlflow-fargate")
def main() -> None:
    """Deploy MLflow models to AWS Fargate.

    Deploy with MLflow's command: mlflow deployments create -t fargate --name NAME -m models:/MODEL/Production
    """


for _command in (local, schema, webhook):
    main.add_command(_command)

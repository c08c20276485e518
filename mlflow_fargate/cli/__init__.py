"""The command `mlflow-fargate`: what MLflow's own command line has no verb for; one module a command or group.

    doctor                            what stands in the way of deploying
    plan                              what create or update would write
    status, events, logs, history     look at a deployment
    rollback, scale                   act on it
    exec                              a command in one of its tasks
    gc                                what deployments that are gone have left
    image export                      the image of a model, to take elsewhere
    schema                            the options of a deployment as JSON schema or Markdown
    local                             the small AWS on this machine
    webhook                           the service that redeploys
    demo                              train, deploy, promote, redeploy and clean up on this machine

Deploying itself is `mlflow deployments … -t fargate`. Commands import what they need when they run, because the local
stack and the webhook service are extras.
"""

from __future__ import annotations

import os

import click

from mlflow_fargate.cli.demo import demo
from mlflow_fargate.cli.deployment.events import events
from mlflow_fargate.cli.deployment.exec import exec_
from mlflow_fargate.cli.deployment.history import history
from mlflow_fargate.cli.deployment.logs import logs
from mlflow_fargate.cli.deployment.plan import plan
from mlflow_fargate.cli.deployment.rollback import rollback
from mlflow_fargate.cli.deployment.scale import scale
from mlflow_fargate.cli.deployment.status import status
from mlflow_fargate.cli.doctor import doctor
from mlflow_fargate.cli.gc import gc
from mlflow_fargate.cli.image import image
from mlflow_fargate.cli.local import local
from mlflow_fargate.cli.schema import schema
from mlflow_fargate.cli.webhook import webhook


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mlflow-fargate")
@click.pass_context
def main(context: click.Context) -> None:
    """Deploy MLflow models to AWS Fargate.

    Deploy with MLflow's command: mlflow deployments create -t fargate --name NAME -m models:/MODEL/Production
    """
    # click drops colors where no terminal is, and does not know https://no-color.org, as rich does.
    if os.environ.get("NO_COLOR"):
        context.color = False


_ON_DEPLOYMENTS = (plan, status, events, logs, history, rollback, scale, exec_)
for _command in (*_ON_DEPLOYMENTS, doctor, gc, image, schema, local, webhook, demo):
    main.add_command(_command)

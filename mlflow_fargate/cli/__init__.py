"""The command `mlflow-fargate`: what MLflow's command line does not cover; one module per command or group.

    doctor                            what would block a deployment
    plan                              what create or update would change
    list                              the deployments of an endpoint
    status, metrics, events, logs, history
                                      look at a deployment
    rollback, scale                   change it
    traffic, promote                  its variants
    predict                           send it a request, also for a streamed response
    key                               how to call it; replaces its API key
    exec                              run a command in one of its tasks
    gc                                resources left over from deleted deployments
    image export, image sbom          the image of a model, to run elsewhere; what is in it
    iam                               IAM policies for an account
    schema                            the options of a deployment as JSON schema or Markdown
    local                             the local stack on this machine
    cache                             the disk space that builds use
    tracking                          a tracking server that a CloudFormation stack created
    webhook                           the service that redeploys
    demo                              train, deploy, promote, redeploy and clean up on this machine

To deploy, use `mlflow deployments … -t fargate`. Commands import what they need when they run, because the local
stack and the webhook service are extras.
"""

from __future__ import annotations

import os

import click

from mlflow_fargate.cli.cache import cache
from mlflow_fargate.cli.demo import demo
from mlflow_fargate.cli.deployment.events import events
from mlflow_fargate.cli.deployment.exec import exec_
from mlflow_fargate.cli.deployment.history import history
from mlflow_fargate.cli.deployment.key import key
from mlflow_fargate.cli.deployment.list import list_
from mlflow_fargate.cli.deployment.logs import logs
from mlflow_fargate.cli.deployment.metrics import metrics
from mlflow_fargate.cli.deployment.plan import plan
from mlflow_fargate.cli.deployment.predict import predict
from mlflow_fargate.cli.deployment.rollback import rollback
from mlflow_fargate.cli.deployment.scale import scale
from mlflow_fargate.cli.deployment.status import status
from mlflow_fargate.cli.doctor import doctor
from mlflow_fargate.cli.gc import gc
from mlflow_fargate.cli.iam import iam
from mlflow_fargate.cli.image import image
from mlflow_fargate.cli.local import local
from mlflow_fargate.cli.schema import schema
from mlflow_fargate.cli.tracking import tracking
from mlflow_fargate.cli.variants import promote, traffic
from mlflow_fargate.cli.webhook import webhook


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mlflow-fargate")
@click.pass_context
def main(context: click.Context) -> None:
    """Deploy MLflow models to AWS Fargate.

    To deploy a model, use MLflow's own command:

    \b
      mlflow deployments create -t fargate --name NAME -m models:/MODEL/Production
    """
    # click drops colors without a terminal, but unlike rich does not support https://no-color.org.
    if os.environ.get("NO_COLOR"):
        context.color = False


_LOOK_AT = (status, metrics, events, logs, history)
_ON_DEPLOYMENTS = (plan, list_, *_LOOK_AT, predict, rollback, scale, traffic, promote, key, exec_)
for _command in (*_ON_DEPLOYMENTS, doctor, gc, image, iam, schema, local, cache, tracking, webhook, demo):
    main.add_command(_command)

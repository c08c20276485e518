"""`mlflow-fargate webhook register`: tells MLflow's server where the service is."""

from __future__ import annotations

import os

import click
from mlflow import MlflowClient

from mlflow_fargate.cli.deployment.options import deployer_at
from mlflow_fargate.doctor.examination import examine_mlflow
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.redirects import RefusingRedirects
from mlflow_fargate.webhook import registration


@click.command()
@click.option("--url", help="Where MLflow's server reaches the service: https://…/events")
@click.option("--target", "-t", help="In place of the URL: where `webhook deploy` put the service.")
@click.option("--name", default="mlflow-fargate", show_default=True, help="What the webhook is called in MLflow.")
def register(url: str | None, target: str | None, name: str) -> None:
    """Make MLflow's server send its events to the service, and try it. The same again brings it up to date.

    MLFLOW_TRACKING_URI names the server. FARGATE_WEBHOOK_SECRET is what events will be signed with; the service has to
    have the same.
    """
    if (url is None) == (target is None):
        raise click.UsageError("Name the service: --url URL, or -t TARGET where `webhook deploy` put it.")
    # Not an option: whoever may list processes would see it.
    secret = os.environ.get("FARGATE_WEBHOOK_SECRET")
    if not secret:
        raise InvalidOption("FARGATE_WEBHOOK_SECRET is not set.", hint="make one: openssl rand -hex 32")
    if url is None:
        from mlflow_fargate.deployments import webhook_service  # noqa: PLC0415  # boto3 takes a second to load

        url = f"{webhook_service.get(deployer_at(target or '')).url}/events"
    for finding in examine_mlflow(url):
        if finding.verdict == "FAIL":
            click.echo(f"{finding.name}: {finding.said}\n  hint: {finding.advice}", err=True)
    with RefusingRedirects():  # the secret goes along
        client = MlflowClient()
        made = registration.register(client, url, secret, name)
        click.echo(f"MLflow's webhook '{name}' {'is made' if made.is_new else 'is up to date'} ({made.webhook_id}).")
        registration.send_test_event(client, made.webhook_id)
    click.echo("The service took MLflow's test event.")
    click.echo(
        "The server has to have MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY set, or it forgets the secret when it starts "
        "again. It may stay silent for the first minute.",
        err=True,
    )

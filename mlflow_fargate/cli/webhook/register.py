"""`mlflow-fargate webhook register`: registers the service as a webhook on the MLflow server."""

from __future__ import annotations

import os

import click

from mlflow_fargate.cli.deployment.options import deployer_at
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.redirects import RefusingRedirects


@click.command(short_help="Register the webhook service on the MLflow server.")
@click.option("--url", help="URL at which the MLflow server reaches the service: https://…/events")
@click.option("--target", "-t", help="Instead of --url: the target passed to `webhook deploy`.")
@click.option("--name", default="mlflow-fargate", show_default=True, help="Name of the webhook in MLflow.")
def register(url: str | None, target: str | None, name: str) -> None:
    """Register the webhook service on the MLflow server, or update the registration, and send a test event.

    The MLflow server is the one at MLFLOW_TRACKING_URI. It signs events with FARGATE_WEBHOOK_SECRET; the service needs
    the same secret.
    """
    from mlflow import MlflowClient  # noqa: PLC0415  # takes seconds to load

    from mlflow_fargate.doctor.examination import examine_mlflow  # noqa: PLC0415
    from mlflow_fargate.webhook import registration  # noqa: PLC0415

    if (url is None) == (target is None):
        raise click.UsageError("Pass either --url URL, or -t TARGET if the service was deployed with `webhook deploy`.")
    # Not an option: anyone who can list processes would see it.
    secret = os.environ.get("FARGATE_WEBHOOK_SECRET")
    if not secret:
        raise InvalidOption("FARGATE_WEBHOOK_SECRET is not set.", hint="create one with: openssl rand -hex 32")
    if url is None:
        from mlflow_fargate.deployments import webhook_service  # noqa: PLC0415  # boto3 takes a second to load

        url = f"{webhook_service.get(deployer_at(target or '')).url}/events"
    for finding in examine_mlflow(url):
        if finding.verdict == "FAIL":
            click.echo(f"{finding.name}: {finding.said}\n  hint: {finding.advice}", err=True)
    with RefusingRedirects():  # the request carries the secret
        client = MlflowClient()
        registered = registration.register(client, url, secret, name)
        done = "created" if registered.is_new else "updated"
        click.echo(f"Webhook '{name}' {done} in MLflow ({registered.webhook_id}).")
        registration.send_test_event(client, registered.webhook_id)
    click.echo("The service received MLflow's test event.")
    click.echo(
        "Set MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY on the MLflow server; without it, the secret is lost when the "
        "server restarts. "
        "The first event can take up to a minute.",
        err=True,
    )

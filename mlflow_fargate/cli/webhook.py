"""`mlflow-fargate webhook …`: the service that redeploys when a registered model moves."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

import click
import requests
from mlflow import MlflowClient

from mlflow_fargate.cli.extras import extra_is_missing
from mlflow_fargate.doctor.examination import examine_mlflow
from mlflow_fargate.errors import FargateError, InvalidOption

# Options of `webhook serve` → the environment variables that say the same.
_SETTINGS = {
    "target": "FARGATE_TARGET",
    "host": "FARGATE_WEBHOOK_HOST",
    "port": "FARGATE_WEBHOOK_PORT",
    "rules": "FARGATE_WEBHOOK_RULES",
    "poll_seconds": "FARGATE_WEBHOOK_POLL_SECONDS",
}


@click.group()
def webhook() -> None:
    """The service that redeploys when a registered model moves to Production."""


@webhook.command()
@click.option("--target", "-t", help="Deployment target, for example fargate:/eu-west-1.  [env FARGATE_TARGET]")
@click.option(
    "--rules",
    type=click.Path(exists=True, dir_okay=False),
    help="YAML file: which models are deployed, and how.  [env FARGATE_WEBHOOK_RULES; default: the models' tags]",
)
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one.  [default: 8080]")
@click.option("--poll-seconds", type=float, help="How often to look at the model registry.  [default: 30]")
def serve(**options: Any) -> None:
    """Watch the model registry, take webhooks, and keep deployments at what the registry says. SIGTERM stops it."""
    try:
        from mlflow_fargate.webhook.serve import serve as serve_webhook  # noqa: PLC0415
        from mlflow_fargate.webhook.settings import parse_settings  # noqa: PLC0415
    except ImportError as error:
        raise extra_is_missing("webhook", error) from error
    given = {_SETTINGS[key]: str(value) for key, value in options.items() if value is not None}
    serve_webhook(parse_settings({**os.environ, **given}))


@webhook.command()
@click.option("--url", required=True, help="Where MLflow's server reaches the service: https://…/events")
@click.option("--name", default="mlflow-fargate", show_default=True, help="What the webhook is called in MLflow.")
def register(url: str, name: str) -> None:
    """Make MLflow's server send its events to the service, and try it. The same again brings it up to date.

    MLFLOW_TRACKING_URI names the server. FARGATE_WEBHOOK_SECRET is what events will be signed with; the service has to
    have the same.
    """
    try:
        from mlflow_fargate.webhook.registration import register as register_webhook  # noqa: PLC0415
        from mlflow_fargate.webhook.registration import send_test_event  # noqa: PLC0415
    except ImportError as error:
        raise extra_is_missing("webhook", error) from error
    # Not an option: whoever may list processes would see it.
    secret = os.environ.get("FARGATE_WEBHOOK_SECRET")
    if not secret:
        raise InvalidOption("FARGATE_WEBHOOK_SECRET is not set.", hint="make one: openssl rand -hex 32")
    for finding in examine_mlflow(url):
        if finding.verdict == "FAIL":
            click.echo(f"{finding.name}: {finding.said}\n  hint: {finding.advice}", err=True)
    client = MlflowClient()
    made = register_webhook(client, url, secret, name)
    click.echo(f"MLflow's webhook '{name}' {'is made' if made.is_new else 'is up to date'} ({made.webhook_id}).")
    send_test_event(client, made.webhook_id)
    click.echo("The service took MLflow's test event.")
    click.echo(
        "The server has to have MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY set, or it forgets the secret when it starts "
        "again. It may stay silent for the first minute.",
        err=True,
    )


@webhook.command()
@click.argument("name")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="Where the service answers.")
@click.option("--token", envvar="FARGATE_WEBHOOK_TOKEN", required=True, help="The service's token.")
def retry(name: str, url: str, token: str) -> None:
    """Let deployment NAME be tried once more, after a rollout that failed. (On another endpoint: ENDPOINT/NAME.)"""
    headers = {"Authorization": f"Bearer {token}"}
    try:
        answer = requests.post(f"{url.rstrip('/')}/retry/{quote(name)}", headers=headers, timeout=30)
    except requests.RequestException as error:
        raise FargateError(f"The webhook service at {url} does not answer: {type(error).__name__}.") from error
    if answer.status_code == 401:
        raise FargateError(
            "The service refused the token.", hint="FARGATE_WEBHOOK_TOKEN has to be the same on both sides"
        )
    if answer.status_code != 202:
        raise FargateError(
            f"The service watches no deployment '{name}' ({answer.status_code}).", hint="see GET /status"
        )
    click.echo(f"'{name}' is tried again.")

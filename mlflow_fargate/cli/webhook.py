"""`mlflow-fargate webhook …`: the service that redeploys when a registered model moves."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

import click
import requests

from mlflow_fargate.cli.extras import extra_is_missing
from mlflow_fargate.errors import FargateError

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

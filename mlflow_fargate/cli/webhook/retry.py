"""`mlflow-fargate webhook retry`: lets a deployment be tried again after a failed rollout."""

from __future__ import annotations

from urllib.parse import quote

import click
import requests

from mlflow_fargate.errors import FargateError


@click.command()
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

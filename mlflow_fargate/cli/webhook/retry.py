"""`mlflow-fargate webhook retry`: retries a deployment after a failed rollout."""

from __future__ import annotations

from urllib.parse import quote

import click

from mlflow_fargate.errors import FargateError


@click.command(short_help="Retry a deployment after a failed rollout.")
@click.argument("name")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="URL of the webhook service.")
@click.option(
    "--token", envvar="FARGATE_WEBHOOK_TOKEN", required=True, show_envvar=True, help="Token of the webhook service."
)
def retry(name: str, url: str, token: str) -> None:
    """Retry deployment NAME after a failed rollout.

    If the deployment is not on the webhook service's endpoint, pass ENDPOINT/NAME.
    """
    import requests  # noqa: PLC0415

    headers = {"Authorization": f"Bearer {token}"}
    try:
        response = requests.post(
            f"{url.rstrip('/')}/retry/{quote(name)}", headers=headers, timeout=30, allow_redirects=False
        )
    except (requests.RequestException, ValueError) as error:  # the latter: a redirect to no URL
        raise FargateError(f"The webhook service at {url} did not respond: {type(error).__name__}.") from error
    if response.is_redirect:
        raise FargateError(
            f"{url} redirects (HTTP {response.status_code}); redirects are not followed, because the token is secret.",
            hint="pass the service's final address with --url",
        )
    if response.status_code == 401:
        raise FargateError(
            "The service refused the token.", hint="use the FARGATE_WEBHOOK_TOKEN that the service was started with"
        )
    if response.status_code != 202:
        raise FargateError(
            f"The service does not watch a deployment named '{name}' (HTTP {response.status_code}).",
            hint=f"list the watched deployments with: GET {url.rstrip('/')}/status",
        )
    click.echo(f"Retrying '{name}'.")

"""`mlflow-fargate webhook …`: the service that redeploys when a registered model moves."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

import click
import requests
import yaml
from mlflow import MlflowClient

from mlflow_fargate.cli.deployment.logs import log_options, print_lines
from mlflow_fargate.cli.deployment.options import deployer_at, json_option, print_fields, print_json, target_option
from mlflow_fargate.cli.deployment.plan import parse_options
from mlflow_fargate.cli.extras import extra_is_missing
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.doctor.examination import examine_mlflow
from mlflow_fargate.errors import FargateError, InvalidOption
from mlflow_fargate.redirects import RefusingRedirects
from mlflow_fargate.resources import WEBHOOK

if TYPE_CHECKING:
    from mlflow_fargate.deployments.deployer import Deployer

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
@click.option("--target", "-t", help="Deployment target, for example fargate:/us-east-2.  [env FARGATE_TARGET]")
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
    try:
        from mlflow_fargate.webhook.registration import register as register_webhook  # noqa: PLC0415
        from mlflow_fargate.webhook.registration import send_test_event  # noqa: PLC0415
    except ImportError as error:
        raise extra_is_missing("webhook", error) from error
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


@webhook.command()
@target_option
@click.option("--tracking-uri", help="The server to follow.  [default: the one before, or MLFLOW_TRACKING_URI]")
@click.option(
    "--rules",
    type=click.File(encoding="utf-8"),
    help="YAML file: which models are deployed, and how.  [default: those before, or the models' tags]",
)
@click.option(
    "--artifacts",
    "buckets",
    multiple=True,
    metavar="BUCKET",
    help="An S3 bucket of MLflow's that the service reads models from; may be repeated.",
)
@click.option("--config", "-C", "config", multiple=True, metavar="KEY=VALUE", help="An option; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
def deploy(
    *,
    target: str,
    tracking_uri: str | None,
    rules: TextIO | None,
    buckets: tuple[str, ...],
    config: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Put the webhook service on Fargate, behind the endpoint's load balancer. The same again brings it up to date.

    It is reached below /_webhook, runs as one task with a role of its own, and keeps what is not named this time. Its
    secrets are named by ARN, of Secrets Manager or SSM:

    \b
      -C secrets.FARGATE_WEBHOOK_SECRET=arn:…      what MLflow signs its events with
      -C secrets.FARGATE_WEBHOOK_TOKEN=arn:…       who may see its page
      -C secrets.MLFLOW_TRACKING_PASSWORD=arn:…    how it signs in to MLflow (or MLFLOW_TRACKING_TOKEN)

    Prints its URL; `webhook register -t TARGET` then tells MLflow's server of it.
    """
    from mlflow_fargate.deployments import webhook_service  # noqa: PLC0415

    deployer = deployer_at(target)
    options: dict[str, Any] = {**parse_options(config), **({"dry_run": True} if dry_run else {})}
    if rules is not None:
        options[webhook_service.RULES] = _models_of(rules)
    if uri := tracking_uri or _tracking_uri_of(deployer):
        options[webhook_service.TRACKING_URI] = uri
    status = webhook_service.deploy(deployer, NamedOptions.parse(options), buckets or None)
    if status is not None:
        click.echo(status.url)


@webhook.command()
@target_option
def undeploy(target: str) -> None:
    """Take the webhook service away from Fargate, with all that was made for it. Deployments stay as they are."""
    from mlflow_fargate.deployments import webhook_service  # noqa: PLC0415

    webhook_service.delete(deployer_at(target))


@webhook.command()
@target_option
@json_option
def status(target: str, as_json: bool) -> None:
    """How the webhook service on Fargate is: its URL, rollout, role and log group. What it does, its page shows."""
    from mlflow_fargate.deployments import webhook_service  # noqa: PLC0415

    found = webhook_service.get(deployer_at(target))
    if as_json:
        print_json(found)
        return
    print_fields(
        {
            "url": found.url,
            "rollout": " ".join(filter(None, (found.state, found.state_reason and f"({found.state_reason})"))),
            "running tasks": found.running_count,
            "tracking server": found.settings.environment.get("MLFLOW_TRACKING_URI"),
            "task role": found.task_role,
            "image": found.image,
            "task definition": found.task_definition,
            "log group": found.log_group,
            "updated": found.updated_at,
        }
    )


@webhook.command()
@target_option
@log_options
def logs(*, target: str, follow: bool, since: int, task: str | None, as_json: bool) -> None:
    """What the webhook service on Fargate wrote: each line with its time (UTC) and its task's first digits."""
    from mlflow_fargate.deployments.logs import read_logs  # noqa: PLC0415

    lines = read_logs(deployer_at(target), WEBHOOK, since, task=task, follow=follow)
    print_lines(lines, as_json=as_json)


def _models_of(rules: TextIO) -> str:
    """The rules of a file, checked as the service would; in its environment they are one line of text."""
    try:
        from mlflow_fargate.webhook.rules import parse_rules  # noqa: PLC0415
    except ImportError as error:
        raise extra_is_missing("webhook", error) from error
    text = rules.read()
    parse_rules(text, rules.name)
    return json.dumps(yaml.safe_load(text)["models"], sort_keys=True)


def _tracking_uri_of(deployer: Deployer) -> str | None:
    """The environment's, where the service does not follow a server already."""
    is_there = deployer.endpoint.webhook_status() is not None
    return None if is_there else os.environ.get("MLFLOW_TRACKING_URI")

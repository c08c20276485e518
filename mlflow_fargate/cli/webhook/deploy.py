"""`mlflow-fargate webhook deploy`: puts the service on Fargate, or brings it up to date."""

from __future__ import annotations

import json
import os
from typing import Any, TextIO

import click
import yaml

from mlflow_fargate.cli.deployment.options import deployer_at, target_option
from mlflow_fargate.cli.deployment.plan import parse_options
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.webhook.control_loop.rules import parse_rules


@click.command()
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
    if not tracking_uri and deployer.endpoint.webhook_status() is None:
        tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
    if tracking_uri:
        options[webhook_service.TRACKING_URI] = tracking_uri
    status = webhook_service.deploy(deployer, NamedOptions.parse(options), buckets or None)
    if status is not None:
        click.echo(status.url)


def _models_of(rules: TextIO) -> str:
    """The rules of a file, checked as the service would; in its environment they are one line of text."""
    text = rules.read()
    parse_rules(text, rules.name)
    return json.dumps(yaml.safe_load(text)["models"], sort_keys=True)

"""`mlflow-fargate webhook deploy`: deploys the service to Fargate, or updates it."""

from __future__ import annotations

import json
import os
from typing import Any, TextIO

import click

from mlflow_fargate.cli.deployment.options import deployer_at, quiet_option, target_option
from mlflow_fargate.cli.deployment.plan import parse_options


@click.command(short_help="Deploy the webhook service to Fargate, or update it.")
@target_option
@click.option(
    "--tracking-uri",
    help="Tracking server to follow.  [default on first deploy: MLFLOW_TRACKING_URI; later: unchanged]",
)
@click.option(
    "--rules",
    type=click.File(encoding="utf-8"),
    help="YAML file that says which models to deploy, and how.  [default on first deploy: none; later: unchanged]",
)
@click.option(
    "--rules-in-tags",
    is_flag=True,
    help="Read the rules from the tags of registered models instead of a file.",
)
@click.option(
    "--artifacts",
    "buckets",
    multiple=True,
    metavar="BUCKET",
    help="S3 bucket that the service reads models from; can be repeated.",
)
@click.option("--config", "-C", "config", multiple=True, metavar="KEY=VALUE", help="Service option; can be repeated.")
@click.option("--dry-run", is_flag=True, help="Print the plan without changing anything.")
@quiet_option
def deploy(
    *,
    target: str,
    tracking_uri: str | None,
    rules: TextIO | None,
    rules_in_tags: bool,
    buckets: tuple[str, ...],
    config: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Deploy the webhook service to Fargate, behind the endpoint's load balancer, or update it.

    The service is at /_webhook on the endpoint and runs as one task with its own role. An update keeps every option
    you do not repeat. Pass secrets as ARNs from Secrets Manager or SSM:

    \b
      -C secrets.FARGATE_WEBHOOK_SECRET=arn:…    signs MLflow's events
      -C secrets.FARGATE_WEBHOOK_TOKEN=arn:…     for the service's page and API
      -C secrets.MLFLOW_TRACKING_PASSWORD=arn:…  or MLFLOW_TRACKING_TOKEN

    Prints the URL of the service; register it in MLflow with `webhook register -t TARGET`.
    """
    from mlflow_fargate.config import NamedOptions  # noqa: PLC0415
    from mlflow_fargate.deployments import webhook_service  # noqa: PLC0415

    deployer = deployer_at(target)
    options: dict[str, Any] = {**parse_options(config), **({"dry_run": True} if dry_run else {})}
    if rules is not None:
        options[webhook_service.RULES] = _models_of(rules)
    elif rules_in_tags:
        options |= {webhook_service.RULES: "", webhook_service.RULES_IN_TAGS: "true"}
    if not tracking_uri and deployer.endpoint.webhook_status() is None:
        tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
    if tracking_uri:
        options[webhook_service.TRACKING_URI] = tracking_uri
    status = webhook_service.deploy(deployer, NamedOptions.parse(options), buckets or None)
    if status is not None:
        click.echo(status.url)


def _models_of(rules: TextIO) -> str:
    """Returns the rules of a file as one line of text for the environment, validated as the service does."""
    import yaml  # noqa: PLC0415

    from mlflow_fargate.webhook.control_loop.rules import parse_rules  # noqa: PLC0415

    text = rules.read()
    parse_rules(text, rules.name)
    return json.dumps(yaml.safe_load(text)["models"], sort_keys=True)

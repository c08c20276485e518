"""`mlflow-fargate webhook serve`: runs the service in the foreground."""

from __future__ import annotations

import os
from typing import Any

import click

from mlflow_fargate.cli.deployment.options import TARGET_HELP
from mlflow_fargate.cli.extras import needed


@click.command(short_help="Run the webhook service in the foreground.")
@click.option(
    "--target",
    "-t",
    help=f"{TARGET_HELP}  [env var: FARGATE_TARGET or MLFLOW_DEPLOYMENTS_TARGET; default: fargate]",
)
@click.option(
    "--rules",
    type=click.Path(exists=True, dir_okay=False),
    help="YAML file that says which models to deploy, and how.  "
    "[env var: FARGATE_WEBHOOK_RULES; default: none, only update existing deployments]",
)
@click.option(
    "--rules-in-tags",
    is_flag=True,
    default=None,
    help="Read the rules from the tags of registered models instead of a file.  "
    "[env var: FARGATE_WEBHOOK_RULES_IN_TAGS]",
)
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one.  [default: 8080]")
@click.option("--poll-seconds", type=float, help="Seconds between polls of the model registry.  [default: 30]")
def serve(target: str | None, **options: Any) -> None:
    """Run the webhook service, which keeps deployments in sync with the model registry. SIGTERM stops it."""
    with needed("webhook"):
        from mlflow_fargate.webhook.serve import serve as serve_webhook  # noqa: PLC0415
        from mlflow_fargate.webhook.settings import parse_settings  # noqa: PLC0415
    # The options override these environment variables.
    named = {"FARGATE_TARGET": target, **{f"FARGATE_WEBHOOK_{key.upper()}": value for key, value in options.items()}}
    given = {key: str(value) for key, value in named.items() if value is not None}
    serve_webhook(parse_settings({**os.environ, **given}))

"""`mlflow-fargate iam`: prints the IAM policies of the documentation for one account."""

from __future__ import annotations

import json

import click

from mlflow_fargate.resources.policies import documented_policy

_POLICIES = ("deployer", "deployer-options", "boundary", "webhook", "webhook-options", "webhook-task")


@click.command(short_help="Print an IAM policy for your account.")
@click.argument("policy", type=click.Choice(_POLICIES))
@click.option("--account", required=True, help="AWS account ID.")
@click.option("--region", help="Allow only this region; required for the webhook service's policies.")
@click.option("--endpoint", default="default", show_default=True, help="Endpoint of the webhook service.")
@click.option("--artifacts", "bucket", metavar="BUCKET", help="S3 bucket with MLflow artifacts.  [default: none]")
def iam(policy: str, account: str, region: str | None, endpoint: str, bucket: str | None) -> None:
    """Print an IAM policy for your account. docs/iam/README.md explains what each is for."""
    try:
        document = documented_policy(policy, account=account, region=region, endpoint=endpoint, bucket=bucket)
    except ValueError as error:
        raise click.UsageError(f"{error}: set --region.") from error
    click.echo(json.dumps(document, indent=2))

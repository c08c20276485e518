"""`mlflow-fargate iam`: prints the IAM policies of the documentation for one account."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mlflow_fargate.partitions import partition_of

_POLICIES = ("deployer", "deployer-options", "boundary", "webhook", "webhook-options", "webhook-task")


@click.command(short_help="Print an IAM policy for your account.")
@click.argument("policy", type=click.Choice(_POLICIES))
@click.option("--account", required=True, help="AWS account ID.")
@click.option(
    "--region",
    help="Allow only this region; required for the webhook service's policies, GovCloud and China.",
)
@click.option("--endpoint", default="default", show_default=True, help="Endpoint of the webhook service.")
@click.option("--artifacts", "bucket", metavar="BUCKET", help="S3 bucket with MLflow artifacts.  [default: none]")
def iam(policy: str, account: str, region: str | None, endpoint: str, bucket: str | None) -> None:
    """Print an IAM policy for your account. docs/iam/README.md explains what each is for."""
    folder = Path(__file__).parents[1] / "iam"
    folder = folder if folder.is_dir() else Path(__file__).parents[2] / "docs" / "iam"
    text = (folder / f"{policy}.json").read_text(encoding="utf-8")
    if ":REGION:" in text and region is None:
        raise click.UsageError(f"The policy {policy} is for one region: set --region.")
    text = text.replace(":*:ACCOUNT:", f":{region or '*'}:ACCOUNT:").replace("ACCOUNT", account)
    text = text.replace("arn:aws:", f"arn:{partition_of(region or '')}:")
    document = json.loads(text.replace("REGION", region or "").replace("ENDPOINT", endpoint))
    if bucket is None:
        document["Statement"] = [one for one in document["Statement"] if "ARTIFACT-BUCKET" not in str(one["Resource"])]
    click.echo(json.dumps(document, indent=2).replace("ARTIFACT-BUCKET", bucket or ""))

"""`mlflow-fargate iam`: prints the IAM policies of the documentation for one account."""

from __future__ import annotations

import json
import re

import click

from mlflow_fargate.target import check_endpoint_name

_POLICIES = ("deployer", "deployer-options", "boundary", "webhook", "webhook-options", "webhook-task")


# Of the values that are written into a policy's JSON.
_FORMS = {
    "account": ("[0-9]{12}", "an account ID: 12 digits, without dashes"),
    "region": ("[a-z]{2}(-[a-z]+)+-[0-9]", "a region, such as us-east-1"),
    "bucket": ("[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket's name, such as mlflow-artifacts"),
}


def _check(_: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    pattern, form = _FORMS[parameter.name or ""]
    if value is not None and not re.fullmatch(pattern, value):
        raise click.BadParameter(f"{value!r} is not {form}.")
    return value


_FORMS["log_bucket"] = _FORMS["bucket"]


@click.command(short_help="Print an IAM policy for your account.")
@click.argument("policy", type=click.Choice(_POLICIES))
@click.option("--account", required=True, callback=_check, help="AWS account ID.")
@click.option(
    "--region",
    callback=_check,
    help="Allow only this region; required for the webhook service's policies, GovCloud and China.",
)
@click.option("--endpoint", default="default", show_default=True, help="Endpoint of the webhook service.")
@click.option(
    "--artifacts",
    "bucket",
    metavar="BUCKET",
    callback=_check,
    help="S3 bucket with MLflow artifacts.  [default: none]",
)
@click.option(
    "--inference-log",
    "log_bucket",
    metavar="BUCKET",
    callback=_check,
    help="S3 bucket of inference_log=.  [default: none]",
)
def iam(
    policy: str, account: str, region: str | None, endpoint: str, bucket: str | None, log_bucket: str | None
) -> None:
    """Print an IAM policy for your account. docs/iam/README.md explains what each is for."""
    from mlflow_fargate.resources.policies import documented_policy  # noqa: PLC0415

    endpoint = check_endpoint_name(endpoint)
    try:
        document = documented_policy(
            policy, account=account, region=region, endpoint=endpoint, bucket=bucket, log_bucket=log_bucket
        )
    except ValueError as error:
        raise click.UsageError(f"{error}: set --region.") from error
    click.echo(json.dumps(document, indent=2))

"""`mlflow-fargate traffic` and `promote`: the requests of a deployment among it and its variants."""

from __future__ import annotations

import re

import click

from mlflow_fargate.cli.deployment.options import (
    deployer_at,
    deployment_options,
    json_option,
    print_json,
    print_table,
    timeout_option,
)
from mlflow_fargate.errors import InvalidOption


@click.command(short_help="Show or change which share of the requests each variant gets.")
@deployment_options
@click.argument("shares", nargs=-1, metavar="[VARIANT=PERCENT]...")
@json_option
def traffic(target: str, name: str, shares: tuple[str, ...], as_json: bool) -> None:
    """Show which share of a deployment's requests each of its variants gets, or change it.

    \b
      mlflow-fargate traffic --name churn
      mlflow-fargate traffic --name churn challenger=25

    Variants that are not named keep their shares; the deployment itself gets the rest. There is no rollout: only the
    weights of a listener rule change.
    """
    from mlflow_fargate.deployments import variants  # noqa: PLC0415

    deployer = deployer_at(target)
    if shares:
        variants.divide(deployer, name, dict(map(_parse, shares)))
    rows = [
        (one.name, one.variant, one.provenance.version, one.running_count, percent)
        for one, percent in variants.shares(deployer, name)
    ]
    columns = ("name", "variant", "version", "tasks", "percent")
    if as_json:
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        print_table([column.upper() for column in columns], rows)


@click.command(short_help="Make a variant's model that of the deployment.")
@deployment_options
@click.argument("variant")
@timeout_option
def promote(target: str, name: str, variant: str, timeout_seconds: int) -> None:
    """Roll the model of VARIANT out to the deployment itself, then delete the variant.

    The deployment keeps its own options. Afterward it is pinned; a note in the output shows how to unpin it.
    """
    from mlflow_fargate.config import NamedOptions  # noqa: PLC0415
    from mlflow_fargate.deployments import variants  # noqa: PLC0415

    status = variants.promote(deployer_at(target), name, variant, NamedOptions({"timeout_seconds": timeout_seconds}))
    click.echo(f"{name} now serves {status.provenance.resolved_uri} ({status.url})")


def _parse(text: str) -> tuple[str, int]:
    name, _, percent = text.partition("=")
    if not name or not re.fullmatch("[0-9]{1,3}", percent):
        raise InvalidOption(f"'{text}' is not VARIANT=PERCENT, with a whole number.", hint="for example: challenger=25")
    return name, int(percent)

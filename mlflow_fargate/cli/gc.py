"""`mlflow-fargate gc`: finds resources left over from deleted deployments."""

from __future__ import annotations

import click

from mlflow_fargate.cli.deployment.options import deployer_at, json_option, print_json, target_option
from mlflow_fargate.deployment import Orphan
from mlflow_fargate.resources import WEBHOOK


@click.command(short_help="Find resources left over from deleted deployments.")
@target_option
@click.option("--delete", is_flag=True, help="Delete the resources; without this, they are only listed.")
@json_option
def gc(target: str, delete: bool, as_json: bool) -> None:
    """Find resources of deployments without a service and of endpoints without a cluster, in the whole region.

    A deployment that is being created right now looks the same until its service exists: do not use --delete while
    others deploy. An endpoint without deployments is not listed; see: mlflow deployments delete-endpoint
    """
    from mlflow_fargate.deployments.cleanup import collect  # noqa: PLC0415

    deployer = deployer_at(target)
    found = list(deployer.account.orphans())
    if as_json:
        print_json(found)
    else:
        for orphan in found:
            click.echo(_title(orphan))
            for arn in orphan.resources:
                click.echo(f"  {arn}")
        if not found:
            click.echo("nothing to clean up")
    if delete:
        for orphan in found:
            collect(deployer, orphan)
    elif found:
        click.echo("nothing deleted yet; run again with --delete", err=True)


def _title(orphan: Orphan) -> str:
    if orphan.name is None:
        return f"endpoint {orphan.endpoint}"
    name = "the webhook service" if orphan.name == WEBHOOK else orphan.name
    return f"{name} on endpoint {orphan.endpoint}"

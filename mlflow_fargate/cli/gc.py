"""`mlflow-fargate gc`: what is left of deployments that are gone."""

from __future__ import annotations

import click

from mlflow_fargate.cli.deployment.options import deployer_at, json_option, print_json, target_option
from mlflow_fargate.deployment import Orphan
from mlflow_fargate.resources import WEBHOOK


@click.command()
@target_option
@click.option("--delete", is_flag=True, help="Take it away; without this, it is only listed.")
@json_option
def gc(target: str, delete: bool, as_json: bool) -> None:
    """Find what is left of deployments that have no service and of endpoints that have no cluster, in the whole region.

    A deployment that somebody is creating right now looks the same until its service is there: do not use --delete
    while others deploy. A whole endpoint without deployments is no orphan; see: mlflow deployments delete-endpoint
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
            click.echo("nothing is left behind")
    if delete:
        for orphan in found:
            collect(deployer, orphan)
    elif found:
        click.echo("nothing was deleted; --delete takes them away", err=True)


def _title(orphan: Orphan) -> str:
    if orphan.name is None:
        return f"endpoint {orphan.endpoint}"
    name = "the webhook service" if orphan.name == WEBHOOK else orphan.name
    return f"{name} on endpoint {orphan.endpoint}"

"""`mlflow-fargate gc`: finds resources left over from deleted deployments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mlflow_fargate.cli.deployment.options import deployer_at, json_option, print_json, quiet_option, target_option

if TYPE_CHECKING:
    from mlflow_fargate.deployment import Orphan


@click.command(short_help="Find resources left over from deleted deployments.")
@target_option
@click.option("--delete", is_flag=True, help="Delete the resources; by default, they are only listed.")
@json_option
@quiet_option
def gc(target: str, delete: bool, as_json: bool) -> None:
    """Find leftover resources of deployments whose ECS service is gone, and of endpoints whose cluster is gone; of
    others, revisions that a killed update registered more than an hour ago.

    Searches the whole region. A deployment that is still being created looks like a leftover until its service exists,
    so do not use --delete while someone else is deploying. An endpoint without deployments is not listed; delete it
    with `mlflow deployments delete-endpoint`.
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
        click.echo("nothing was deleted; to delete these resources, run again with --delete", err=True)


def _title(orphan: Orphan) -> str:
    if orphan.name is None:
        return f"endpoint {orphan.endpoint}"
    from mlflow_fargate.resources import WEBHOOK  # noqa: PLC0415

    name = "the webhook service" if orphan.name == WEBHOOK else orphan.name
    return f"{'revisions of ' if orphan.is_deployed else ''}{name} on endpoint {orphan.endpoint}"

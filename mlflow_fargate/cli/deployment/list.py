"""`mlflow-fargate list`: the deployments of an endpoint, at a glance."""

from __future__ import annotations

import click

from mlflow_fargate.cli.deployment.options import (
    deployer_at,
    json_option,
    print_fields,
    print_json,
    print_table,
    target_option,
)


@click.command(name="list", short_help="List the deployments of an endpoint.")
@target_option
@json_option
def list_(target: str, as_json: bool) -> None:
    """List the deployments of an endpoint: version, rollout state, running and desired tasks, and URL.

    For another endpoint than the default one, pass -t fargate:/REGION/ENDPOINT.
    """
    from mlflow_fargate.deployment import as_dict  # noqa: PLC0415

    deployer = deployer_at(target)
    found = sorted(deployer.list(), key=lambda status: status.name)
    if as_json:
        print_json([as_dict(status) for status in found])
    elif not found:
        click.echo("no deployments; create one with: mlflow deployments create -t fargate --name NAME -m MODEL_URI")
    else:
        shares: dict[str, int] = {}  # of deployments with variants, and of these
        for shared in {one.settings.variant_of for one in found if one.settings.variant_of}:
            shares |= deployer.endpoint.shares(shared)
        rows = [
            (one.name, one.provenance.version or "-", one.state, f"{one.running_count}/{one.desired_count}")
            + ((f"{shares.get(one.name, 100)}%",) if shares else ())
            for one in found
        ]
        print_table(("NAME", "VERSION", "STATE", "TASKS", *(("TRAFFIC",) if shares else ())), rows)
        click.echo()
        # By themselves: in a table, a terminal would cut them.
        print_fields({one.name: one.url for one in found})

"""`mlflow-fargate history`: lists the revisions of a deployment."""

from __future__ import annotations

import click

from mlflow_fargate.cli.deployment.options import (
    deployer_at,
    deployment_options,
    json_option,
    minute_of,
    print_json,
    print_table,
)


@click.command(short_help="List the revisions of a deployment.")
@deployment_options
@click.option(
    "--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="Maximum number of revisions to list."
)
@json_option
def history(target: str, name: str, limit: int, as_json: bool) -> None:
    """List the revisions of a deployment, newest first: rollout state, model version, date (UTC) and author.

    STATE is COMPLETED if any rollout of the revision has completed, and UNKNOWN if ECS has no record of a rollout. The
    deployed revision is marked with *. To roll back: mlflow-fargate rollback --to REVISION
    --json has the images and the authors' ARNs.
    """
    from mlflow_fargate.deployments import operations  # noqa: PLC0415

    found = operations.history(deployer_at(target), name, limit)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            f"{revision.number}{'*' if revision.is_current else ''}",
            revision.state,
            revision.provenance.resolved_uri,
            minute_of(revision.registered_at),
            revision.registered_by.rpartition("/")[2],
        )
        for revision in found
    ]
    print_table(("REVISION", "STATE", "MODEL", "REGISTERED", "BY"), rows)

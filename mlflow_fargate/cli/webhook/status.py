"""`mlflow-fargate webhook status`: shows the service on Fargate."""

from __future__ import annotations

import click

from mlflow_fargate.cli.deployment.options import deployer_at, json_option, print_fields, print_json, target_option


@click.command(short_help="Show the webhook service on Fargate.")
@target_option
@json_option
def status(target: str, as_json: bool) -> None:
    """Show the webhook service on Fargate: URL, rollout, role and log group.

    To see what the service is doing, open its URL.
    """
    from mlflow_fargate.deployments import webhook_service  # noqa: PLC0415

    found = webhook_service.get(deployer_at(target))
    if as_json:
        print_json(found)
        return
    print_fields(
        {
            "url": found.url,
            "rollout": " ".join(filter(None, (found.state, found.state_reason and f"({found.state_reason})"))),
            "running tasks": found.running_count,
            "tracking server": found.settings.environment.get("MLFLOW_TRACKING_URI"),
            "task role": found.task_role,
            "image": found.image,
            "task definition": found.task_definition,
            "log group": found.log_group,
            "updated": found.updated_at,
        }
    )

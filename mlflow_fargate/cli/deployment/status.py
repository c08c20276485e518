"""`mlflow-fargate status`: shows the deployed version, its rollout and its tasks."""

from __future__ import annotations

import sys

import click

from mlflow_fargate.cli.deployment.options import (
    deployer_at,
    deployment_options,
    json_option,
    minute_of,
    print_fields,
    print_json,
    print_table,
    print_text,
    quiet_option,
    timeout_option,
)
from mlflow_fargate.cli.deployment.traffic_chart import traffic_lines

_EXIT_CODES = {"COMPLETED": 0, "IN_PROGRESS": 3, "FAILED": 4}
# The most useful fields of a deployment; --json prints all of them.
_SHOWN = (
    "name",
    "endpoint",
    "url",
    "state",
    "state_reason",
    "model_uri",
    "resolved_model_uri",
    "follow",
    "strategy",
    "traffic_shares",
    "last_failed_version",
    "image",
    "inference_log",
    "task_definition",
    "updated_at",
)


@click.command(short_help="Show the deployed version, the rollout and the tasks.")
@deployment_options
@click.option("--follow", "-f", is_flag=True, help="Wait for the current rollout to finish.")
@timeout_option
@json_option
@quiet_option
def status(target: str, name: str, follow: bool, timeout_seconds: int, as_json: bool) -> None:
    """Show the deployed version, the rollout, the tasks and, if CloudWatch has data, the traffic.

    Exit codes: 0 = a version is deployed and no rollout is in progress (also after ECS rolled back); 3 = a rollout is
    in progress; 4 = the rollout failed and there was nothing to roll back to; 1 = any other error, such as no
    deployment with this name. With -f, a rollout that fails or exceeds --timeout-seconds always exits with 1.
    """
    from mlflow_fargate.deployment import PLAIN_HTTP, as_dict  # noqa: PLC0415
    from mlflow_fargate.deployments import operations  # noqa: PLC0415

    deployer = deployer_at(target)
    found = operations.watch(deployer, name, timeout_seconds) if follow else deployer.get(name)
    tasks = operations.tasks(deployer, name)
    traffic = deployer.endpoint.traffic(name)
    shares = deployer.endpoint.shares(found.settings.variant_of or name)
    shown = as_dict(found) | ({"shares": shares} if len(shares) > 1 else {})
    if as_json:
        print_json({**shown, "tasks": [vars(task) for task in tasks], "traffic": [vars(step) for step in traffic]})
    else:
        divided = ", ".join(f"{one} {percent}%" for one, percent in shares.items()) if len(shares) > 1 else ""
        print_fields({**{key: shown[key] for key in _SHOWN if key in shown}, "traffic": divided})
        if found.exposes_key:
            click.secho(f"\n{PLAIN_HTTP}", fg="yellow", err=True)
        click.echo(f"\n{found.running_count} of {found.desired_count} tasks running")
        rows = [(task.id, task.state, task.revision, minute_of(task.started_at)) for task in tasks]
        print_table(("TASK", "STATE", "REVISION", "STARTED"), rows)
        for task in tasks:
            if task.stopped_reason:
                code = "" if task.exit_code is None else f" (exit code {task.exit_code})"
                print_text(f"{task.id}: {task.stopped_reason}{code}")
        print_text("\n".join(["", *traffic_lines(traffic)]))
    sys.exit(_EXIT_CODES.get(found.state, 1))

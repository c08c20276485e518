"""`mlflow-fargate logs`: prints the logs of a deployment's tasks."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

from mlflow_fargate.cli.deployment.options import Command, deployer_at, deployment_options

if TYPE_CHECKING:
    from mlflow_fargate.deployment import LogLine

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_moment(context: click.Context | None, parameter: click.Parameter | None, text: str) -> int:
    """Parses '10m', '2h', '1d' ago or an ISO 8601 time (default UTC) into ms since 1970."""
    if match := re.fullmatch(r"(\d{1,9})([smhd])", text):
        return int((time.time() - int(match[1]) * _SECONDS[match[2]]) * 1000)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is not a duration (10m, 2h, 1d) or a time (2026-11-24T21:00).") from error
    aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return int(aware.timestamp() * 1000)


def log_options(command: Command) -> Command:
    """Adds the options that select log lines and their format."""
    options = (
        click.option("--follow", "-f", is_flag=True, help="Keep printing new lines until Ctrl-C."),
        click.option(
            "--since",
            callback=parse_moment,
            default="1h",
            show_default=True,
            help="Print lines since this time: 10m, 2h or 1d (ago), or a UTC time such as 2026-11-24T21:00.",
        ),
        click.option("--task", help="Print only this task's lines: its ID or first characters, as in `status`."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def print_lines(lines: Iterable[LogLine], *, as_json: bool) -> None:
    """Prints the lines as they arrive; Ctrl-C stops it."""
    with suppress(KeyboardInterrupt):  # how --follow ends
        for line in lines:
            at = datetime.fromtimestamp(line.at_milliseconds / 1000, timezone.utc)
            if as_json:
                fields = {"at": at.isoformat(timespec="milliseconds"), "task": line.task, "message": line.message}
                click.echo(json.dumps(fields))
            else:
                click.echo(f"{at:%Y-%m-%dT%H:%M:%S} {line.task[:8]}  {line.message}")


@click.command(short_help="Print the logs of a deployment's tasks.")
@deployment_options
@log_options
def logs(*, target: str, name: str, follow: bool, since: int, task: str | None, as_json: bool) -> None:
    """Print the logs of a deployment's tasks, each line with its time (UTC) and a shortened task ID."""
    from mlflow_fargate.deployments.logs import read_logs  # noqa: PLC0415

    lines = read_logs(deployer_at(target), name, since, task=task, follow=follow)
    print_lines(lines, as_json=as_json)

"""Shared by the commands for deployments: the options that select a deployment, and printing."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from mlflow_fargate.progress import Progress, progress_for_stderr, wrap
from mlflow_fargate.target import cache_directory, parse_target

if TYPE_CHECKING:
    from mlflow_fargate.deployments.deployer import Deployer

Command = TypeVar("Command", bound=Callable[..., Any])

_QUIET = f"{__name__}.quiet"  # in the context of a command
TARGET_HELP = (
    "Deployment target: fargate (your default AWS region), fargate:/REGION, fargate:/REGION/ENDPOINT or fargate:/local."
)

target_option = click.option(
    "--target",
    "-t",
    default="fargate",
    envvar="FARGATE_TARGET",
    show_default=True,
    show_envvar=True,
    help=TARGET_HELP,
)
name_option = click.option("--name", required=True, help="Name of the deployment.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
wait_option = click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the change to finish.")
quiet_option = click.option(
    "--quiet",
    "-q",
    is_flag=True,
    expose_value=False,
    callback=lambda context, _, is_quiet: context.meta.update({_QUIET: is_quiet}),
    help="Print no progress, only warnings, errors and results. MLFLOW_FARGATE_QUIET=1 does the same.",
)
timeout_option = click.option(
    "--timeout-seconds", type=click.IntRange(min=1), default=1800, show_default=True, help="Maximum time to wait."
)


def command_progress() -> Progress:
    """Returns where the running command reports its progress; nowhere with --quiet."""
    return progress_for_stderr(quiet=click.get_current_context().meta.get(_QUIET, False))


def deployment_options(command: Command) -> Command:
    """Adds -t TARGET and --name NAME, as in MLflow's command."""
    return target_option(name_option(command))


def deployer_at(target_uri: str) -> Deployer:
    """Returns the Deployer for a target."""
    # boto3 takes a second to load: --help should not wait for it.
    from mlflow_fargate.aws.account import Account  # noqa: PLC0415
    from mlflow_fargate.deployments.deployer import make_deployer  # noqa: PLC0415

    target = parse_target(target_uri)
    return make_deployer(target, Account(target), cache_directory(), command_progress())


def print_json(found: Any) -> None:
    """Prints one JSON document; dataclasses and options become objects."""
    click.echo(json.dumps(_plain(found), indent=2, default=lambda settings: settings.named))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints aligned columns; what is too long for a terminal goes on in the next line, and nothing is cut."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console(highlight=False, markup=False, width=output_width()).print(table)


def output_width() -> int:
    """Returns the columns of the terminal; of other outputs, so many that no line is broken."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000


def print_text(text: object) -> None:
    """Prints lines, broken between words where the terminal ends; a URL or ARN goes to a line of its own, whole."""
    for line in str(text).splitlines():
        click.echo(wrap(line, output_width()))


def minute_of(moment: str | None) -> str:
    """Returns an ISO 8601 moment to the minute: 2026-11-24 21:00."""
    return (moment or "")[:16].replace("T", " ")


def print_fields(fields: Mapping[str, object]) -> None:
    """Prints one name and value per line, without empty values."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if value not in (None, ""):
            print_text(f"{name:<{width}}  {value}")


def _plain(found: Any) -> Any:
    if is_dataclass(found) and not isinstance(found, type):
        return asdict(found)
    return [_plain(item) for item in found] if isinstance(found, (list, tuple)) else found

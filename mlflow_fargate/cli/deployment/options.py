"""What the commands on deployments share: which deployment is meant, and how what is found is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from mlflow_fargate.progress import progress_for_stderr
from mlflow_fargate.target import cache_directory, parse_target

if TYPE_CHECKING:
    from mlflow_fargate.deployments.deployer import Deployer

Command = TypeVar("Command", bound=Callable[..., Any])

target_option = click.option(
    "--target",
    "-t",
    default="fargate",
    envvar="FARGATE_TARGET",
    show_default=True,
    show_envvar=True,
    help="As for MLflow: fargate:/REGION, fargate:/REGION/ENDPOINT, fargate:/local.",
)
name_option = click.option("--name", required=True, help="The deployment.")
json_option = click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
wait_option = click.option("--wait/--no-wait", default=True, show_default=True, help="Return when it is done.")
timeout_option = click.option(
    "--timeout-seconds", type=click.IntRange(min=1), default=1800, show_default=True, help="How long to wait."
)


def deployment_options(command: Command) -> Command:
    """-t TARGET --name NAME, as MLflow's own command has them."""
    return target_option(name_option(command))


def deployer_at(target_uri: str) -> Deployer:
    """The story's hands at a target."""
    # boto3 takes a second to load: --help should not wait for it.
    from mlflow_fargate.aws.account import Account  # noqa: PLC0415
    from mlflow_fargate.deployments.deployer import make_deployer  # noqa: PLC0415

    target = parse_target(target_uri)
    return make_deployer(target, Account(target), cache_directory(), progress_for_stderr())


def print_json(found: Any) -> None:
    """One JSON document on stdout; dataclasses and options become objects."""
    click.echo(json.dumps(_plain(found), indent=2, default=lambda settings: settings.named))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns on stdout; nothing is cut where no terminal sets the width."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 1000)
    console.print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """`name: value` a line, without those that say nothing."""
    width = max(map(len, fields))
    for name, value in fields.items():
        if value not in (None, ""):
            click.echo(f"{name:<{width}}  {value}")


def _plain(found: Any) -> Any:
    if is_dataclass(found) and not isinstance(found, type):
        return asdict(found)
    return [_plain(item) for item in found] if isinstance(found, (list, tuple)) else found

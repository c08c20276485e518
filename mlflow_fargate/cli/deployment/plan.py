"""`mlflow-fargate plan`: shows what create or update would change."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import click

from mlflow_fargate.cli.deployment.options import (
    deployer_at,
    deployment_options,
    json_option,
    print_json,
    print_text,
    quiet_option,
)
from mlflow_fargate.errors import InvalidOption

_CHANGES = 2


class WrongUsage(click.UsageError):
    exit_code = 1


class PlanCommand(click.Command):
    """A command whose exit code 2 means "changes", so a usage error exits with 1, not with click's 2."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(*arguments, **options)
        except click.UsageError as error:
            raise WrongUsage(error.format_message(), ctx=error.ctx) from error


@click.command(cls=PlanCommand, short_help="Show what create or update would change, and the cost.")
@deployment_options
@click.option("--model-uri", "-m", help="Model URI.  [default: the deployed model]")
@click.option("--flavor", "-f", help="Flavor, as in `mlflow deployments create`.")
@click.option(
    "--config", "-C", "config", multiple=True, metavar="KEY=VALUE", help="Deployment option; can be repeated."
)
@json_option
@quiet_option
def plan(
    *, target: str, name: str, model_uri: str | None, flavor: str | None, config: tuple[str, ...], as_json: bool
) -> None:
    """Show what `mlflow deployments create` (or `update`, if NAME is deployed) would change.

    Lists the resources that would be created (+) or changed (~, old → new), and the monthly cost. Nothing is built or
    changed.

    Exit code: 0 if there are no changes, 2 if there are changes, 1 on error.
    """
    from mlflow_fargate.config import NamedOptions  # noqa: PLC0415

    found, estimate = deployer_at(target).preview(name, model_uri, flavor, NamedOptions.parse(parse_options(config)))
    if as_json:
        print_json({**found.as_dict(), "monthly_cost_usd": asdict(estimate)})
    else:
        print_text(f"{found}\n{estimate}")
    sys.exit(0 if found.is_empty else _CHANGES)


def parse_options(given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if wrong := next((key for key, equals, _ in pairs if not equals), None):
        raise InvalidOption(f"'-C {wrong}' is not KEY=VALUE.", hint="for example: -C cpu=2048")
    return {key: value for key, _, value in pairs}

"""`mlflow-fargate doctor`: shows what would block a deployment, and how to fix it."""

from __future__ import annotations

import sys
from itertools import groupby

import click

from mlflow_fargate.cli.deployment.options import deployer_at, json_option, print_json, print_text, target_option

_COLORS = {"OK": "green", "FAIL": "red", "SKIP": "yellow"}


@click.command(short_help="Check for anything that would block a deployment.")
@target_option
@click.option(
    "--config",
    "-C",
    "config",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option you plan to deploy with; the checks take it into account. Can be repeated.",
)
@click.option("--webhook-url", help="URL at which the MLflow server will reach the webhook service.")
@json_option
def doctor(target: str, config: tuple[str, ...], webhook_url: str | None, as_json: bool) -> None:
    """Check credentials, permissions, quotas, network, endpoint and the MLflow server, without changing anything.

    Each check reports OK, FAIL (with a fix on the next line) or SKIP (it does not apply or could not run).

    Exit code: 1 if any check reports FAIL, otherwise 0.
    """
    from mlflow_fargate.cli.deployment.plan import parse_options  # noqa: PLC0415
    from mlflow_fargate.config import parse_config  # noqa: PLC0415
    from mlflow_fargate.doctor.examination import examine  # noqa: PLC0415

    options = parse_config(parse_options(config))
    findings = examine(deployer_at(target).endpoint, options, webhook_url)
    if as_json:
        print_json(findings)
    else:
        for topic, of_topic in groupby(findings, key=lambda finding: finding.topic):
            click.echo(topic)
            for finding in of_topic:
                verdict = click.style(f"{finding.verdict:<4}", fg=_COLORS[finding.verdict])
                print_text(f"  {verdict} {finding.name}: {finding.said}")
                if finding.advice:
                    print_text(f"         → {finding.advice}")
    sys.exit(1 if any(finding.verdict == "FAIL" for finding in findings) else 0)

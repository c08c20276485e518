"""`mlflow-fargate schema`: prints the options of a deployment, for editors, CI and the docs."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--markdown", is_flag=True, help="Print the options as a Markdown page instead.")
def schema(markdown: bool) -> None:
    """Print the JSON schema for option files (-C config_file=FILE).

    If you save it as fargate.schema.json, editors will validate any YAML file next to it that starts with:

    \b
      # yaml-language-server: $schema=fargate.schema.json
    """
    from mlflow_fargate.config.describe import options_page, options_schema  # noqa: PLC0415

    text = options_page() if markdown else json.dumps(options_schema(), indent=2, ensure_ascii=False) + "\n"
    click.echo(text, nl=False)

"""`mlflow-fargate predict`: sends a request to a deployment, and prints its answer as it arrives."""

from __future__ import annotations

import json
from typing import Any, TextIO

import click

from mlflow_fargate.cli.deployment.options import deployment_options


@click.command(short_help="Send a request to a deployment.")
@deployment_options
@click.option(
    "--input-path", "-I", type=click.File("r", encoding="utf-8"), required=True, help="JSON file; - is standard input."
)
@click.option("--stream", is_flag=True, help="Print each chunk of a streamed response on its own line, as it arrives.")
def predict(target: str, name: str, input_path: TextIO, stream: bool) -> None:
    """Send a request to a deployment, and print its answer as JSON.

    The file is a request of MLflow's protocol, or just the inputs. --stream requires a model with predict_stream.
    """
    from mlflow_fargate.client import FargateDeploymentClient  # noqa: PLC0415

    client, inputs = FargateDeploymentClient(target), _read(input_path)
    if not stream:
        click.echo(client.predict(name, inputs).to_json())
        return
    for chunk in client.predict_stream(name, inputs):
        click.echo(json.dumps(chunk))  # flushes


def _read(file: TextIO) -> Any:
    try:
        return json.load(file)
    except ValueError as error:
        raise click.BadParameter(f"{file.name} is not JSON: {error}", param_hint="--input-path") from error

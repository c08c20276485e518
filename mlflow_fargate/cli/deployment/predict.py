"""`mlflow-fargate predict`: sends a request to a deployment, and prints its answer as it arrives."""

from __future__ import annotations

import json
from typing import BinaryIO

import click

from mlflow_fargate.cli.deployment.input_file import read_input
from mlflow_fargate.cli.deployment.options import deployment_options


@click.command(short_help="Send a request to a deployment.")
@deployment_options
@click.option(
    "--input-path",
    "-I",
    type=click.File("rb"),
    required=True,
    help="A JSON or CSV file, or an image; - is standard input.",
)
@click.option("--stream", is_flag=True, help="Print each chunk of a streamed response on its own line, as it arrives.")
def predict(target: str, name: str, input_path: BinaryIO, stream: bool) -> None:
    """Send a request to a deployment, and print its answer as JSON.

    \b
      mlflow-fargate predict --name churn -I customers.csv
      mlflow-fargate predict --name digits -I seven.png
      echo '{"inputs": [[1, 2]]}' | mlflow-fargate predict --name churn -I -

    A JSON file is a request of MLflow's protocol, or only the inputs. The first line of a CSV file names the columns.
    --stream requires a model with predict_stream.
    """
    from mlflow_fargate.client import FargateDeploymentClient  # noqa: PLC0415

    client, inputs = FargateDeploymentClient(target), read_input(input_path)
    if not stream:
        click.echo(client.predict(name, inputs).to_json())
        return
    for chunk in client.predict_stream(name, inputs):
        click.echo(json.dumps(chunk))  # flushes

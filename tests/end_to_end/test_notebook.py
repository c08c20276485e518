"""Deploying from a notebook, in a real kernel: the output below the cell."""

from __future__ import annotations

import nbformat
import pytest
from mlflow.deployments import get_deploy_client
from nbclient import NotebookClient

pytestmark = [pytest.mark.end_to_end, pytest.mark.exhaustive, pytest.mark.timeout(900)]

CELL = """
import mlflow_fargate
deployment = mlflow_fargate.deploy({model!r}, name="in-a-notebook", target="fargate:/local", auth="none")
deployment.predict([{{"x": 1.5}}])
"""


def test_a_notebook_shows_the_progress_as_plain_text_and_then_the_result(doubler: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.format(model=doubler))])
    try:
        NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    finally:
        get_deploy_client("fargate:/local").delete_deployment("in-a-notebook")

    *told, answer = notebook.cells[0].outputs
    shown = "".join(output.text for output in told if output.output_type == "stream" and output.name == "stderr")
    assert {output.output_type for output in told} == {"stream"}  # no widget
    for step in ("Planning", "Applying", "Waiting for the rollout", "in-a-notebook is at http"):
        assert f"s] {step}" in shown
    assert "\r" not in shown and "\x1b" not in shown
    assert answer.data["text/plain"] == "{'predictions': [{'x': 3.0}]}"

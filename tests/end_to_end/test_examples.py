"""The notebook in examples/, run as a user would run it."""

from __future__ import annotations

from pathlib import Path

import mlflow
import nbformat
import pytest
from mlflow.deployments import get_deploy_client
from nbclient import NotebookClient

pytestmark = [pytest.mark.end_to_end, pytest.mark.exhaustive, pytest.mark.timeout(900)]

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_notebook_trains_deploys_predicts_and_promotes(
    local_stack: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DEPLOYMENTS_TARGET", "fargate:/local")
    notebook = nbformat.read(EXAMPLES / "train_deploy_promote.ipynb", as_version=4)

    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()

    version = mlflow.MlflowClient().get_latest_versions("flowers")[0]
    assert (version.version, version.current_stage) == ("1", "Production")
    assert get_deploy_client("fargate:/local").list_deployments() == []


def test_the_notebook_is_committed_without_outputs() -> None:
    notebook = nbformat.read(EXAMPLES / "train_deploy_promote.ipynb", as_version=4)

    assert [cell.outputs for cell in notebook.cells if cell.cell_type == "code" and cell.outputs] == []

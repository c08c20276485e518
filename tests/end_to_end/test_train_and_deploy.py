"""The examples that train and deploy in one script, run as described in their first lines."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.deployments import get_deploy_client

from support.flavor_models import WHY_NOT

pytestmark = [pytest.mark.end_to_end, pytest.mark.exhaustive, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


def are(*expected: Any) -> Callable[[Any], bool]:
    return lambda answer: bool(answer == list(expected))


def is_a_years_progression(answer: Any) -> bool:
    """Returns whether these are predictions for scikit-learn's diabetes table, whose target is between 25 and 346."""
    return len(answer["predictions"]) == 2 and all(25 < value < 346 for value in answer["predictions"])


@pytest.mark.parametrize(
    ("script", "name", "library", "is_right"),
    [
        ("train_and_deploy", "iris", "sklearn", lambda answer: answer == {"predictions": [0, 0]}),
        ("train_and_deploy_xgboost", "diabetes", "xgboost", is_a_years_progression),
        ("train_and_deploy_tensorflow", "numerals", "tensorflow", are(0, 1)),
        ("train_and_deploy_pytorch", "wine", "torch", are(0, 0)),
        ("train_and_deploy_service", "flower-names", "sklearn", lambda answer: answer == {"predictions": "virginica"}),
        ("train_and_deploy_agent", "counting-agent", "mlflow", are("3", "4", "2", "4")),
    ],
)
def test_an_example_trains_and_deploys_in_one_short_script(
    local_stack: dict[str, str], script: str, name: str, library: str, is_right: Callable[[Any], bool]
) -> None:
    if not importlib.util.find_spec(library):
        pytest.skip(WHY_NOT.get(library, f"{library} is not installed; make test-all installs it"))
    environment = {**os.environ, "MLFLOW_DEPLOYMENTS_TARGET": "fargate:/local"}
    client, registry = get_deploy_client("fargate:/local"), mlflow.MlflowClient()
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"examples.{script}"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = client.get_deployment(name)
        version = registry.get_model_version(name, "1")
    finally:
        client.delete_deployment(name)
        if registry.search_registered_models(f"name = '{name}'"):
            registry.delete_registered_model(name)

    url, answer = done.stdout.splitlines()[-2:]
    assert url == found["url"]
    assert is_right(json.loads(answer.replace("'", '"')))
    assert (found["model_name"], found["model_version"]) == (name, "1")
    assert version.current_stage == "Production"
    assert len((ROOT / "examples" / f"{script}.py").read_text().splitlines()) <= 40

"""Thousands of requests generated from the OpenAPI document: none of them makes the service fail."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.models import infer_signature
from sklearn.ensemble import HistGradientBoostingRegressor

from support.serving_process import Running, build, serve

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.timeout(900)]

SAVE_NETWORK = """
import sys
import mlflow.tensorflow, numpy as np, tensorflow as tf
from mlflow.models import infer_signature
layers = [tf.keras.Input((8, 8, 3)), tf.keras.layers.Flatten(), tf.keras.layers.Dense(3, activation="softmax")]
images = np.zeros((1, 8, 8, 3), "float32")
model = tf.keras.Sequential(layers)
signature = infer_signature(images, model.predict(images, verbose=0))
mlflow.tensorflow.save_model(model, sys.argv[1], signature=signature, pip_requirements=["mlflow"])
"""


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("regression")
    table = pd.DataFrame({"area": [1.0, 2.0, 3.0], "rooms": [1, 2, 4]})
    # A model that accepts missing values: one that fails on them correctly returns 500.
    model = HistGradientBoostingRegressor().fit(table, [1.0, 2.0, 3.5])
    mlflow.sklearn.save_model(
        model,
        folder / "model",
        signature=infer_signature(table, model.predict(table)),
        input_example=table,
        pip_requirements=["mlflow", "scikit-learn"],
        serialization_format="cloudpickle",
    )
    with serve(build(folder / "model", folder), folder / "model", folder) as running:
        yield running


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("classifier")
    # In a separate process: TensorFlow would stay in this one, with all its threads.
    subprocess.run([sys.executable, "-c", SAVE_NETWORK, str(folder / "model")], check=True, capture_output=True)
    labels = {"0": "a", "1": "b", "2": "c"}
    with serve(build(folder / "model", folder, labels=labels), folder / "model", folder) as running:
        yield running


@pytest.mark.parametrize("name", ["regression", "classifier"])
def test_no_request_that_matches_the_document_makes_the_service_fail(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    running: Running = request.getfixturevalue(name)
    command = [Path(sys.executable).parent / "schemathesis", "run", f"{running.url}/docs.json", "--url", running.url]
    command += ["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"]
    command += ["--max-examples", "300", "--seed", "1", "--request-timeout", "30", "--continue-on-failure"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    tested = re.search(r"(\d+) generated", done.stdout)
    assert tested, done.stdout[-2000:]
    assert int(tested[1]) > 300

"""Models served by ONNX Runtime instead of their library: the same predictions, from images without the library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from mlflow.deployments import get_deploy_client

from mlflow_fargate.errors import ModelUnusable
from support.deployed_services import ROOT, deployed, log_model, post
from support.flavor_models import LIBRARIES

pytestmark = [pytest.mark.end_to_end, pytest.mark.exhaustive, pytest.mark.timeout(900)]

COMMAND = str(Path(sys.executable).parent / "mlflow-fargate")
NETWORK = """
import sys
import mlflow, numpy as np, tensorflow as tf
from mlflow.models import infer_signature
layers = tf.keras.layers
network = tf.keras.Sequential([tf.keras.Input((32, 32, 3)), layers.Conv2D(8, 3, activation="relu"), layers.Flatten(),
                               layers.Dense(3, activation="softmax")])
images = np.zeros((1, 32, 32, 3), "float32")
mlflow.set_experiment("networks")
with mlflow.start_run():
    signature = infer_signature(images, network.predict(images, verbose=0))
    mlflow.log_dict({"0": "sea", "1": "wood", "2": "street"}, "labels.json")
    print(mlflow.tensorflow.log_model(network, name="model", signature=signature).model_uri)
"""


def image_of(name: str, tmp_path: Path) -> tuple[dict[str, str], set[str]]:
    """Returns the labels of a deployment's image, and the names of its layers."""
    plan = [COMMAND, "status", "-t", "fargate:/local", "--name", name, "--json"]
    status = json.loads(subprocess.check_output(plan, text=True))
    repository, _, digest = status["image"].partition("/")[2].partition("@")
    found = (
        boto3.Session()
        .client("ecr")
        .batch_get_image(repositoryName=repository.partition(":")[0], imageIds=[{"imageDigest": digest}])
    )
    manifest = json.loads(found["images"][0]["imageManifest"])
    layers = {layer.get("annotations", {}).get("io.mlflow-fargate.layer.name", "base") for layer in manifest["layers"]}
    return manifest["annotations"], layers


@pytest.mark.parametrize("flavor", ["sklearn", "xgboost", "lightgbm", "tensorflow"])
def test_a_converted_model_predicts_the_same_as_the_model(
    local_stack: dict[str, str], flavor: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    library = LIBRARIES[flavor]
    if library:
        pytest.importorskip(library)
    logged = log_model(flavor)

    with deployed(f"{flavor}-onnx", logged["uri"], {"runtime": "onnx", "smoke_test": True}) as url:
        answer = post(f"{url}/invocations", logged["request"])
        malformed = post(f"{url}/invocations", {"dataframe_split": {"columns": ["a"], "data": [["x"]]}})
        gap = post(f"{url}/invocations", {"dataframe_records": [{"a": None, "b": 0.5, "c": 0.5}]})
        annotations, layers = image_of(f"{flavor}-onnx", tmp_path)

    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(np.asarray(answer.json()["predictions"]), np.asarray(logged["expected"]), atol=1e-5)
    assert malformed.status_code == 400
    # Boosters and their conversions accept rows with missing values; scikit-learn's trees here do not.
    assert gap.status_code == (400 if flavor == "sklearn" else 200)
    if flavor == "tensorflow":  # in a network, a missing value (NaN) turns everything computed from it into NaN
        assert gap.json()["predictions"] == [[None, None]]
    assert annotations["mlflow-fargate.runtime"] == "onnx"
    assert "the input example and generated inputs differ by" in annotations["mlflow-fargate.runtime-reason"]
    assert not layers & {"scikit-learn", "scipy", "xgboost-cpu", "lightgbm", "tensorflow-cpu"}
    assert "runtime onnx: answers to" in capfd.readouterr().err  # the plan


def test_a_converted_image_classifier_returns_the_same_labels_as_the_network(
    local_stack: dict[str, str], tmp_path: Path
) -> None:
    trained = subprocess.run([sys.executable, "-c", NETWORK], cwd=ROOT, capture_output=True, text=True, check=False)
    assert trained.returncode == 0, trained.stderr[-3000:]
    (uri,) = [line for line in trained.stdout.splitlines() if line.startswith("models:")]
    pixels = np.random.default_rng(1).random((2, 32, 32, 3)).round(4).tolist()
    answers: dict[str, Any] = {}

    for runtime in ("native", "onnx"):
        with deployed(f"scenes-{runtime}", uri, {"runtime": runtime, "memory": 4096}) as url:
            answers[runtime] = post(f"{url}/invocations", {"instances": pixels}).json()["predictions"]
            _, layers = image_of(f"scenes-{runtime}", tmp_path)
            assert ("tensorflow-cpu" in layers) == (runtime == "native")

    np.testing.assert_allclose(answers["onnx"], answers["native"], atol=1e-5)


def test_a_model_without_a_converter_stays_native_or_is_refused(
    local_stack: dict[str, str], doubler: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with deployed("own-code", doubler, {"runtime": "auto"}) as url:
        answer = post(f"{url}/invocations", {"dataframe_split": {"columns": ["x"], "data": [[21.0]]}})
    assert answer.status_code == 200
    assert "runtime: native, because no converter for a model of the flavors python_function" in capfd.readouterr().err

    with pytest.raises(ModelUnusable, match=r"cannot be served by ONNX Runtime: nothing converts"):
        get_deploy_client("fargate:/local").create_deployment("own-code", doubler, config={"runtime": "onnx"})


def test_a_plan_shows_what_is_not_decided_yet(local_stack: dict[str, str]) -> None:
    logged = log_model("sklearn")
    command = [COMMAND, "plan", "-t", "fargate:/local", "--name", "later", "-m", logged["uri"], "-C", "runtime=auto"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert "runtime auto: decided when the image is built" in done.stdout, done.stdout + done.stderr

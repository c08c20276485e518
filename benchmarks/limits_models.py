"""The models that benchmarks/limits.py serves: scikit-learn, and an image classifier in TensorFlow and in ONNX."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from mlflow_fargate.bento import template_folder
from mlflow_fargate.sandbox.onnx_conversion import converter_folder
from tests.support.serving_process import build

COLUMNS = list("abcdefghij")
LABELS = {str(number): f"scene {number}" for number in range(6)}
# In a separate process: TensorFlow would stay in this one. The size of the walk-through's network.
CLASSIFIER = """
import sys, mlflow, tensorflow as tf
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
import numpy as np
layers = tf.keras.layers
model = tf.keras.Sequential([tf.keras.Input((100, 100, 3)), layers.Conv2D(32, 3, activation="relu"),
    layers.MaxPooling2D(), layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten(),
    layers.Dense(64, activation="relu"), layers.Dense(6, activation="softmax")])
spec = lambda *shape: Schema([TensorSpec(np.dtype("float32"), (-1, *shape))])
mlflow.tensorflow.save_model(model, sys.argv[1], signature=ModelSignature(spec(100, 100, 3), spec(6)),
                             pip_requirements=["tensorflow"])
"""
# What they need besides is in this environment, with TensorFlow.
CONVERTERS = ("tf2onnx>=1.17", "onnx", "onnxruntime>=1.20")


@dataclass(frozen=True)
class Served:
    """A Bento's source and a model directory, with variables for the service."""

    source: Path
    model_dir: Path
    environment: dict[str, str] = field(default_factory=dict)


def make_table(folder: Path) -> Served:
    """Returns a scikit-learn model of ten columns."""
    table = pd.DataFrame(np.random.default_rng(1).random((50, 10)), columns=COLUMNS)
    model = LogisticRegression().fit(table, table["a"] > 0.5)
    path = folder / "linear"
    options = {"input_example": table.head(3), "pip_requirements": ["scikit-learn"]}
    signature = mlflow.models.infer_signature(table, model.predict(table))
    mlflow.sklearn.save_model(model, path, signature=signature, serialization_format="cloudpickle", **options)
    return Served(build(path, folder / "table-service"), path)


def make_classifier(folder: Path) -> Served:
    """Returns a TensorFlow model for images of 100 x 100 pixels."""
    return Served(build(_network(folder), folder / "image-service", labels=LABELS), _network(folder))


def make_converted(folder: Path) -> Served:
    """Returns the same classifier, converted as when an image is built with runtime=onnx."""
    network, packages, converted = _network(folder), folder / "converters", folder / "converted"
    install = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--target", packages)
    subprocess.run([*map(str, install), "--python", sys.executable, *CONVERTERS], check=True)
    converted.mkdir()
    job = {"model_dir": str(network), "into": str(converted), "template": "image_classifier", "tolerance": 1e-4}
    (folder / "job.json").write_text(json.dumps(job))
    paths = {"PYTHONPATH": os.pathsep.join(map(str, (packages, template_folder())))}
    convert = (sys.executable, converter_folder() / "convert.py", folder / "job.json")
    subprocess.run(convert, check=True, capture_output=True, env=os.environ | paths)
    verdict = json.loads((converted / "verdict.json").read_text())
    if not verdict["is_equal"]:
        raise RuntimeError(verdict["reason"])
    source = build(network, folder / "onnx-service", labels=LABELS, options={"runtime": "onnx"})
    return Served(source, converted, {"PYTHONPATH": str(packages)})


def _network(folder: Path) -> Path:
    path = folder / "classifier"
    if not path.exists():
        subprocess.run([sys.executable, "-c", CLASSIFIER, str(path)], check=True, capture_output=True)
    return path

"""Keras models in MLflow's layouts, loaded without MLflow, give the same answers as when they were saved."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_fargate.bento import template_folder

pytestmark = pytest.mark.slow

SAVE = """
import sys
from pathlib import Path
import mlflow.keras, mlflow.tensorflow, numpy as np, tensorflow as tf
from mlflow.models import infer_signature

folder = Path(sys.argv[1])
images = np.random.default_rng(1).random((2, 8, 8, 3)).astype("float32")

class Doubled(tf.keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2

def make_model(*layers):
    head = [tf.keras.layers.Flatten(), tf.keras.layers.Dense(3)]
    return tf.keras.Sequential([tf.keras.Input((8, 8, 3)), *layers, *head])

def save(name, save_model, model, **options):
    scores = model.predict(images, verbose=0)
    signature = infer_signature(images, scores)
    save_model(model, folder / name, signature=signature, pip_requirements=["mlflow"], **options)
    np.save(folder / f"{name}.npy", scores)

save("keras", mlflow.tensorflow.save_model, make_model())
save("h5", mlflow.tensorflow.save_model, make_model(), keras_model_kwargs={"save_format": "h5"})
save("custom", mlflow.tensorflow.save_model, make_model(Doubled()), custom_objects={"Doubled": Doubled})
save("exported", mlflow.keras.save_model, make_model(), save_exported_model=True)
two = [tf.keras.Input((8, 8, 3)), tf.keras.Input((4,))]
joined = tf.keras.layers.Concatenate()([tf.keras.layers.Flatten()(two[0]), two[1]])
mlflow.tensorflow.save_model(tf.keras.Model(two, joined), folder / "two", pip_requirements=["mlflow"])
np.save(folder / "images.npy", images)
"""
LOAD = """
import json, sys
from pathlib import Path
import numpy as np, yaml
sys.path.insert(0, sys.argv[2])
from fargate_service.models.keras_loading import load_network

folder = Path(sys.argv[1])
images = np.load(folder / "images.npy")
found = {}
for name in ("keras", "h5", "custom", "exported", "two", "nothing"):
    metadata = yaml.safe_load((folder / ("keras" if name == "nothing" else name) / "MLmodel").read_text())
    try:
        network = load_network(folder / name, metadata["flavors"], cpus=1)
        same = np.allclose(network.predict(images), np.load(folder / f"{name}.npy"), atol=1e-6)
        found[name] = [list(network.input_shape), bool(same), network.why_alone]
    except ValueError as error:
        found[name] = str(error)
found["mlflow"] = "mlflow" in sys.modules
print(json.dumps(found))
"""


def run(code: str, *arguments: Path) -> str:
    """In a separate process: TensorFlow would stay in this one, with all its threads."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1] if done.stdout else ""


def test_every_layout_gives_the_answers_of_the_saved_model(tmp_path: Path) -> None:
    run(SAVE, tmp_path)

    found = json.loads(run(LOAD, tmp_path, template_folder()))

    good = [[None, 8, 8, 3], True]
    assert {name: found[name][:2] for name in ("keras", "h5", "custom", "exported")} == dict.fromkeys(
        ("keras", "h5", "custom", "exported"), good
    )
    assert {name: found[name][2] for name in ("keras", "h5", "custom", "exported")} == {
        "keras": None,
        "h5": None,
        "custom": "layer doubled (Doubled) is not known to process each image independently",
        "exported": "a SavedModel does not show whether it processes each image independently",
    }
    assert "several inputs" in found["two"]
    assert "no model.keras" in found["nothing"]
    assert not found["mlflow"]

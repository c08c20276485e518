"""Trains the walk-through's image classifier and registers it: Conv2D 64 2x2 relu → Flatten → Dense softmax.

    python -m examples.image_classifier.train PICTURES MODEL_NAME [EPOCHS]

Set MLFLOW_TRACKING_URI to your tracking server. MLflow logs parameters, metrics and the model automatically (autolog);
the labels file goes to the run's root, where the deployment finds it.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import keras
import mlflow
from mlflow.entities.model_registry import ModelVersion

from .pictures import SIZE, read_data

BATCH_SIZE = 32


def train(pictures: Path, name: str, *, epochs: int, seed: int = 1) -> ModelVersion:
    """Trains a model and returns its registered version."""
    keras.utils.set_random_seed(seed)
    mlflow.set_experiment(name)
    mlflow.tensorflow.autolog(checkpoint=False)
    inputs, numbers, labels = read_data(pictures)
    with mlflow.start_run() as run:
        model = keras.Sequential(
            [
                keras.layers.Input((*SIZE, 3)),
                keras.layers.Conv2D(64, (2, 2), activation="relu"),
                keras.layers.Flatten(),
                keras.layers.Dense(len(labels), activation="softmax"),
            ]
        )
        steps = epochs * math.ceil(len(inputs) / BATCH_SIZE)
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(5e-4, steps))
        model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(inputs, numbers, epochs=epochs, batch_size=BATCH_SIZE, verbose=0)
        mlflow.log_dict(labels, f"rev_labels_{name}.json")
    return mlflow.register_model(f"runs:/{run.info.run_id}/model", name)


if __name__ == "__main__":
    version = train(Path(sys.argv[1]), sys.argv[2], epochs=int(sys.argv[3]) if len(sys.argv) > 3 else 4)
    print(f"registered {version.name} version {version.version}")

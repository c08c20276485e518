"""Trains the walk-through's digit generator, a plain GAN, and registers it.

    python -m examples.digit_generator.train MODEL_NAME [EPOCHS]

Set MLFLOW_TRACKING_URI to your tracking server.
"""

from __future__ import annotations

import sys

import keras
import mlflow
import numpy as np
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import infer_signature

from examples.digit_generator.gan import NOISE, train_gan


def train(name: str, *, epochs: int) -> ModelVersion:
    """Trains a generator and returns its registered version."""
    mlflow.set_experiment(name)
    with mlflow.start_run() as run:
        generator, losses = train_gan(conditional=False, epochs=epochs)
        mlflow.log_params({"epochs": epochs})
        mlflow.log_metrics(losses)
        noise = np.zeros((1, NOISE), "float32")
        log_generator(generator, noise)
    return mlflow.register_model(f"runs:/{run.info.run_id}/model", name)


def log_generator(generator: keras.Model, inputs: np.ndarray | dict[str, np.ndarray]) -> None:
    """Logs a generator with a signature inferred from these inputs."""
    drawn = generator.predict(inputs, verbose=0)
    mlflow.tensorflow.log_model(generator, name="model", signature=infer_signature(inputs, drawn))


if __name__ == "__main__":
    version = train(sys.argv[1], epochs=int(sys.argv[2]) if len(sys.argv) > 2 else 40)
    print(f"registered {version.name} version {version.version}")

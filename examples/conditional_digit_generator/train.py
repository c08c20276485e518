"""Trains the walk-through's ConditionalDigitGenerator and registers it.

    python -m examples.conditional_digit_generator.train MODEL_NAME [EPOCHS]

Set MLFLOW_TRACKING_URI to your tracking server.
"""

from __future__ import annotations

import sys

import mlflow
import numpy as np
from mlflow.entities.model_registry import ModelVersion

from examples.digit_generator.gan import NOISE, train_gan
from examples.digit_generator.train import log_generator


def train(name: str, *, epochs: int) -> ModelVersion:
    """Trains a generator and returns its registered version."""
    mlflow.set_experiment(name)
    with mlflow.start_run() as run:
        generator, losses = train_gan(conditional=True, epochs=epochs)
        mlflow.log_params({"epochs": epochs})
        mlflow.log_metrics(losses)
        log_generator(generator, {"noise": np.zeros((1, NOISE), "float32"), "label": np.zeros((1, 1), "int32")})
    return mlflow.register_model(f"runs:/{run.info.run_id}/model", name)


if __name__ == "__main__":
    version = train(sys.argv[1], epochs=int(sys.argv[2]) if len(sys.argv) > 2 else 40)
    print(f"registered {version.name} version {version.version}")

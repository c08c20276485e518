"""The models as the peers' applications use them: each library at its best, without MLflow's checks."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

SIDE = 100
MODEL = Path(os.environ["BENCH_MODEL"])
NAME = MODEL.name
IS_PICTURE = NAME in ("tensorflow", "onnx")
LABELS = [f"label {number}" for number in range(6)]


def load_table() -> Any:
    """Returns the scikit-learn or XGBoost model itself."""
    if NAME == "xgboost":
        import mlflow.xgboost

        return mlflow.xgboost.load_model(str(MODEL))
    import mlflow.sklearn

    return mlflow.sklearn.load_model(str(MODEL))


def load_network() -> Callable[[np.ndarray], np.ndarray]:
    """Returns a compiled function from images to scores."""
    if NAME == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(str(MODEL / "model.onnx"), options)
        return lambda batch: session.run(None, {"images": batch})[0]
    import mlflow.tensorflow
    import tensorflow as tf

    network = mlflow.tensorflow.load_model(str(MODEL))
    signature = [tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32)]
    compiled = tf.function(lambda batch: network(batch, training=False), input_signature=signature)
    return lambda batch: compiled(batch).numpy()


def decode(image: bytes) -> np.ndarray:
    """Returns an array (height, width, channels), as the model was trained."""
    with Image.open(io.BytesIO(image)) as opened:
        pixels = np.asarray(ImageOps.exif_transpose(opened).convert("RGB").resize((SIDE, SIDE)))
    return np.divide(pixels, 255.0).astype("float32")

"""Loads a Keras model or SavedModel from an MLflow model directory, without MLflow.

Reads the flavors `tensorflow` (`data: data`, `model_type: keras`, or `saved_model_dir`) and `keras` of MLmodel:

    data/model.keras   Keras 3, what MLflow 2.11 and later write
    data/model.h5      with save_format="h5"
    data/model/        SavedModel: TensorFlow below 2.16, or keras.log_model(save_exported_model=True)
    tf2model/          SavedModel of a tf.Module
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import tensorflow as tf

from fargate_service.batching.keras_rows import why_network_alone
from fargate_service.models.loaded_network import LoadedNetwork

# MLflow pickles custom layers here; this is the model's code, as trusted as the model itself.
_CUSTOM_OBJECTS = ("global_custom_objects.cloudpickle", "custom_objects.cloudpickle")


@dataclass(frozen=True)
class TensorFunction:
    """A network in TensorFlow: takes one tensor of this shape and type, with any batch size, and returns one."""

    call: Callable[[Any], Any]
    spec: Any  # tf.TensorSpec
    why_alone: str | None  # as in LoadedNetwork


def load_network(model_dir: Path, flavors: Mapping[str, Any], *, cpus: int) -> LoadedNetwork:
    """Returns the network in `model_dir`; ValueError if there is none, or it has several inputs or outputs."""
    # TensorFlow counts the machine's cores, not the container's quota.
    tf.config.threading.set_intra_op_parallelism_threads(cpus)
    tf.config.threading.set_inter_op_parallelism_threads(cpus)
    function = load_function(model_dir, flavors)
    return LoadedNetwork(
        predict=lambda batch: function.call(tf.cast(batch, function.spec.dtype)).numpy(),
        input_shape=tuple(function.spec.shape.as_list()),
        why_alone=function.why_alone,
    )


def load_function(model_dir: Path, flavors: Mapping[str, Any]) -> TensorFunction:
    """Returns the function behind `load_network`."""
    conf = flavors.get("tensorflow") or flavors["keras"]
    if code := conf.get("code"):
        sys.path.insert(0, str(model_dir / code))
    data = model_dir / conf.get("saved_model_dir", conf.get("data", "data"))
    for file in (data / "model.keras", data / "model.h5"):
        if file.is_file():
            return _load_keras(file)
    for folder in (data / "model", data):
        if (folder / "saved_model.pb").is_file():
            return _load_saved_model(folder)
    raise ValueError(f"no model.keras, model.h5 or saved_model.pb below {data}")


def _load_keras(file: Path) -> TensorFunction:
    # Losses and metrics are not needed here, and custom ones could not be loaded.
    model = tf.keras.models.load_model(file, custom_objects=_custom_objects(file.parent), compile=False)
    if not isinstance(model.input_shape, tuple) or not isinstance(model.output_shape, tuple):
        raise ValueError("the model has several inputs or outputs; this template supports one of each")
    spec = tf.TensorSpec(model.input_shape, model.inputs[0].dtype)
    call = tf.function(lambda batch: model(batch, training=False), input_signature=[spec])
    return TensorFunction(call, spec, why_network_alone(model, tf.keras))


def _load_saved_model(folder: Path) -> TensorFunction:
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["serving_default"]
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError("the model has several inputs or outputs; this template supports one of each")
    (name, spec), (output,) = next(iter(inputs.items())), outputs

    def call(batch: Any) -> Any:
        # `loaded` must stay alive: the signature holds its variables only weakly.
        return loaded.signatures["serving_default"](**{name: batch})[output]

    why_alone = "a SavedModel does not show whether it processes each image independently"
    return TensorFunction(call, tf.TensorSpec(spec.shape, spec.dtype), why_alone)


def _custom_objects(folder: Path) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    for name in _CUSTOM_OBJECTS:
        if (folder / name).is_file():
            found.update(cloudpickle.loads((folder / name).read_bytes()))
    return found or None

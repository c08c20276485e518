"""Loads and warms up the model in a model directory.

The templates are imported only when chosen: each needs libraries that the other's image lacks, and the machine that
builds the image lacks both.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fargate_service.cause import InputExampleError, ModelLoadError
from fargate_service.models.loaded_model import LoadedModel, choose_batching
from fargate_service.models.package_versions import describe_other_version
from fargate_service.models.tracing import turn_off_tracing
from fargate_service.settings import ServiceDescription, Settings, set_library_threads
from fargate_service.start import few_collections

if TYPE_CHECKING:
    from fargate_service.models.loaded_network import LoadedNetwork  # needs NumPy

# BentoML shows INFO of loggers below its own name only.
logger = logging.getLogger("bentoml.model")


def load_model(description: ServiceDescription, settings: Settings, source: Path) -> LoadedModel:
    """Returns the model in `settings.model_dir`, loaded and warm; any problem is raised here, before any request.

    `source` is the folder of service.json and the labels.
    """
    began = time.monotonic()
    set_library_threads(os.environ, settings.cpus)
    load = _load_image_classifier if description.template == "image_classifier" else _load_pyfunc
    try:
        with few_collections():
            model = load(description, settings, source)
    except Exception as error:
        raise ModelLoadError(describe_other_version(error, settings.model_dir)) from error
    turn_off_tracing(are_exported=settings.exports_traces)
    loaded = time.monotonic()
    try:
        is_warm = settings.warm_up and model.warm_up()
    except Exception as error:
        raise InputExampleError from error
    # These objects are permanent: the garbage collector should not traverse a framework's objects during requests.
    gc.collect()
    gc.freeze()
    warm = f"first prediction in {time.monotonic() - loaded:.1f} s" if is_warm else "not warmed up"
    logger.info("Model %s loaded in %.1f s, %s", description.model_uri, loaded - began, warm)
    logger.info("Batching of requests is %s", model.batching)
    return model


def _load_image_classifier(description: ServiceDescription, settings: Settings, source: Path) -> LoadedModel:
    from fargate_service.models.image_classifier import ImageClassifier, read_labels  # noqa: PLC0415
    from fargate_service.models.image_decoding import parse_decoding_options  # noqa: PLC0415

    if description.labels is None:
        raise ValueError("service.json does not name a labels file, which an image classifier requires")
    metadata: dict[str, Any] = yaml.safe_load((settings.model_dir / "MLmodel").read_text(encoding="utf-8"))
    network = _load_network(description, settings, metadata["flavors"])
    return ImageClassifier(
        network.predict,
        network.input_shape,
        read_labels(source / description.labels),
        limits=settings.images,
        max_levels=settings.documents.max_levels,
        logged_with=str(metadata.get("mlflow_version", "")),
        batching=choose_batching(description.options.get("batching"), network.why_alone),
        options=parse_decoding_options(description.options),
    )


def _load_network(description: ServiceDescription, settings: Settings, flavors: Mapping[str, Any]) -> LoadedNetwork:
    if description.is_onnx:
        from fargate_service.models.onnx_loading import load_onnx_network  # noqa: PLC0415

        return load_onnx_network(settings.model_dir, cpus=settings.cpus)
    from fargate_service.models.keras_loading import load_network  # noqa: PLC0415

    return load_network(settings.model_dir, flavors, cpus=settings.cpus)


def _load_pyfunc(description: ServiceDescription, settings: Settings, _: Path) -> LoadedModel:
    # Both are read when mlflow is imported. Flavors load differently for serving; MLflow's own server sets this.
    os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"
    # A serving container should not send telemetry.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from fargate_service.pyfunc.pyfunc_loading import load_pyfunc  # noqa: PLC0415

    batching = description.options.get("batching")
    if not description.is_onnx:
        return load_pyfunc(settings.model_dir, batching=batching, limits=settings.documents)
    from fargate_service.models.onnx_loading import load_onnx  # noqa: PLC0415

    converted = load_onnx(settings.model_dir, cpus=settings.cpus)
    return load_pyfunc(settings.model_dir, batching=batching, implementation=converted, limits=settings.documents)

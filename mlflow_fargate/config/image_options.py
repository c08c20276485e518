"""What goes into the image beside the model."""

from __future__ import annotations

from typing import Literal

from mlflow_fargate.config.option import Names, OptionGroup, option


class ImageOptions(OptionGroup):
    """Options of the image."""

    labels: str | None = option(
        None,
        "name of the labels file of an image classifier, beside the model or at its run's root",
        maps_to="MLflow artifact path",
    )
    requirements: Names = option(
        (),
        "further Python packages, or other versions of the model's own",
        maps_to="MLflow requirements.txt",
        examples=["xgboost-cpu==3.0"],
    )
    normalise: bool = option(
        True,
        "put the requirements right for serving: tensorflow-cpu, headless OpenCV, …; "
        "false: install what they name (but for MLflow itself)",
        maps_to="MLflow requirements.txt",
    )
    base_image: str | None = option(
        None,
        "image to build on; by default python:3.X-slim of the model's Python",
        maps_to="OCI image reference",
        examples=["python:3.11-slim"],
    )
    compression: Literal["zstd", "gzip"] = option(
        "zstd", "compression of the layers built here", maps_to="OCI layer media type"
    )

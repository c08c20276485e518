"""The service in the image: template, runtime, batching, and how images are prepared for the model."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import field_validator

from mlflow_fargate.config.option import OptionGroup, Table, option

_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


class ServingOptions(OptionGroup):
    """Options of the service in the image."""

    service: str | None = option(
        None,
        "what serves the model: a template (image_classifier, or pyfunc for any MLflow model) or the path of a custom "
        "BentoML service; by default, the template that fits the model",
        maps_to="BentoML service",
        examples=["path/to/service.py"],
        allowed="a template, or the path of a file",
    )
    models: Table = option(
        dict,
        'additional models for a custom service; its code loads each by its key: load_model("KEY")',
        maps_to="MLflow model URI",
        examples=["models.generator=models:/digits/Production"],
        allowed="keys of 1 to 32 letters, digits, - and _",
    )
    batching: bool | None = option(
        None,
        "true: combine waiting requests into one prediction; false: one prediction per request; by default, true "
        "only for models known to compute each row independently (listed in docs/operating.md)",
        maps_to="(the service)",
    )
    runtime: Literal["native", "auto", "onnx"] = option(
        "native",
        "what runs the model: the library it was trained with (native) or ONNX Runtime (onnx), which is smaller and "
        "starts faster. For onnx and auto, the model is converted on this machine, in a process without credentials, "
        "and the result is used only if its predictions match the original's; if they do not match, auto falls back "
        "to native, and onnx fails with an error",
        maps_to="(the service)",
        examples=["onnx"],
    )
    runtime_tolerance: float = option(
        1e-5,
        "largest allowed difference between predictions of the converted model and of the original; relative for "
        "values above 1",
        unit="fraction",
        ge=0,
        le=0.1,
        maps_to="(the service)",
        examples=["1e-4"],
    )
    image_size: str | None = option(
        None,
        "size that images are resized to, HEIGHTxWIDTH; needed only for models without a fixed input size",
        unit="pixels",
        maps_to="(the service)",
        examples=["224x224"],
        allowed="1x1 to 99999x99999",
    )
    image_scaling: Literal["0..1", "-1..1", "0..255"] = option(
        "0..1", "value range that pixels are scaled to", maps_to="(the service)"
    )
    image_resampling: Literal["bicubic", "bilinear", "lanczos", "nearest"] = option(
        "bicubic", "how images are resized", maps_to="Pillow: Resampling"
    )
    image_color: Literal["rgb", "bgr"] = option(
        "rgb", "order of the color channels; bgr is OpenCV's", maps_to="(the service)"
    )

    @field_validator("models")
    @classmethod
    def _check_model_keys(cls, models: dict[str, str]) -> dict[str, str]:
        for key in models:
            if not _KEY.fullmatch(key) or key == "model":
                raise ValueError(
                    f"'{key}' is not a valid key: use letters, digits, '-' and '_'; 'model' is reserved for the "
                    f"model of -m"
                )
        return models

    @field_validator("image_size")
    @classmethod
    def _check_image_size(cls, size: str | None) -> str | None:
        if size is not None and not _SIZE.fullmatch(size):
            raise ValueError("must be HEIGHTxWIDTH, such as 224x224")
        return size

    @property
    def custom_service(self) -> str | None:
        """The path of a custom service; None if a template is used."""
        return None if self.service in (None, "image_classifier", "pyfunc") else self.service

    @property
    def template_options(self) -> dict[str, Any]:
        """The options that service.json passes to the template; without defaults, so that images stay the same."""
        size = _SIZE.fullmatch(self.image_size) if self.image_size else None
        options: dict[str, Any] = {
            "batching": self.batching,
            "size": [int(size[1]), int(size[2])] if size else None,
            "scaling": self.image_scaling,
            "resampling": self.image_resampling,
            "color": self.image_color,
        }
        defaults = {"scaling": "0..1", "resampling": "bicubic", "color": "rgb"}
        return {name: value for name, value in options.items() if value not in (None, defaults.get(name))}

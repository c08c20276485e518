"""What answers for the model, and how pictures are prepared for it."""

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
        "image_classifier, pyfunc (any MLflow model), or the path of your own BentoML service; by default what fits",
        maps_to="BentoML service",
        examples=["path/to/service.py"],
        allowed="a template, or a file's path",
    )
    models: Table = option(
        dict,
        "further models of a custom service, by the key it loads them with",
        maps_to="MLflow model URI",
        examples=["models.generator=models:/digits/Production"],
        allowed="keys of 1 to 32 letters, digits, - and _",
    )
    batching: bool | None = option(
        None,
        "true: requests that wait share one prediction; false: each is answered alone; by default true only for models "
        "that are known to treat each row alone (docs/operating.md lists them)",
        maps_to="(the service)",
    )
    runtime: Literal["native", "auto", "onnx"] = option(
        "native",
        "what computes: the library the model was trained with, or ONNX Runtime, which is smaller and starts sooner. "
        "The model is converted on this machine, which runs its code, and used so only if it answers the same; else "
        "auto stays native and onnx is an error",
        maps_to="(the service)",
        examples=["onnx"],
    )
    runtime_tolerance: float = option(
        1e-5,
        "how far the converted model's answers may be from the model's own, as a part of them where they are above 1",
        unit="part",
        ge=0,
        le=0.1,
        maps_to="(the service)",
        examples=["1e-4"],
    )
    image_size: str | None = option(
        None,
        "HEIGHTxWIDTH of pictures for a model that takes any; by default the model's own",
        unit="pixels",
        maps_to="(the service)",
        examples=["224x224"],
        allowed="1x1 to 99999x99999",
    )
    image_scaling: Literal["0..1", "-1..1", "0..255"] = option(
        "0..1", "range of the numbers that pictures become", maps_to="(the service)"
    )
    image_resampling: Literal["bicubic", "bilinear", "lanczos", "nearest"] = option(
        "bicubic", "how pictures are resized", maps_to="Pillow: Resampling"
    )
    image_color: Literal["rgb", "bgr"] = option("rgb", "order of the colors; bgr is OpenCV's", maps_to="(the service)")

    @field_validator("models")
    @classmethod
    def _check_model_keys(cls, models: dict[str, str]) -> dict[str, str]:
        for key in models:
            if not _KEY.fullmatch(key) or key == "model":
                raise ValueError(
                    f"'{key}' cannot be a key: letters, digits, '-' and '_', and not 'model', which is -m's"
                )
        return models

    @field_validator("image_size")
    @classmethod
    def _check_image_size(cls, size: str | None) -> str | None:
        if size is not None and not _SIZE.fullmatch(size):
            raise ValueError("write it as HEIGHTxWIDTH, 224x224 for example")
        return size

    @property
    def custom_service(self) -> str | None:
        """The path of the user's own service; None where one of the templates serves."""
        return None if self.service in (None, "image_classifier", "pyfunc") else self.service

    @property
    def template_options(self) -> dict[str, Any]:
        """What service.json tells the template; only what differs from its defaults, so that images stay the same."""
        size = _SIZE.fullmatch(self.image_size) if self.image_size else None
        options: dict[str, Any] = {
            "batching": self.batching,
            "size": [int(size[1]), int(size[2])] if size else None,
            "scaling": self.image_scaling,
            "resampling": self.image_resampling,
            "color": self.image_color,
        }
        usual = {"scaling": "0..1", "resampling": "bicubic", "color": "rgb"}
        return {name: value for name, value in options.items() if value not in (None, usual.get(name))}

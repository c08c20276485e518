"""Builds images from flat arguments: contents, destination and build options in one mapping."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from mlflow_fargate.image import Destination, ImageSpec, Model, PushedImage, build_image

_OF_THE_SPEC = {field.name for field in fields(ImageSpec)}

# What every base with the C library has, besides its loader.
GLIBC = (
    "libc.so.6",
    "libm.so.6",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "libz.so.1",
)


def make_image(**arguments: Any) -> PushedImage:
    """Calls `build_image` with these; `destination` is a reference in `registry`, `model_key` the key of `model`."""
    spec, destination, how = split(**arguments)
    return build_image(spec, destination, **how)


def split(**arguments: Any) -> tuple[ImageSpec, Destination, dict[str, Any]]:
    """Returns the arguments in the form that builders take."""
    destination = Destination(arguments.pop("registry"), arguments.pop("destination"), arguments.pop("previous", None))
    model = Model(arguments.pop("model"), arguments.pop("model_key", "1"))
    of_the_spec = {name: arguments.pop(name) for name in list(arguments) if name in _OF_THE_SPEC}
    lists = {name: tuple(of_the_spec[name]) for name in ("requirements", "system_packages") if name in of_the_spec}
    return ImageSpec(**{**of_the_spec, **lists, "model": model}), destination, arguments

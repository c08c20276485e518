"""The base image, read from its registry and never stored here; checks.py checks whether packages can run on it."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.oci.image import BaseImage, Manifest
from mlflow_fargate.image.oci.platforms import Platform
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.packages.uv import make_python_minor
from mlflow_fargate.image.registry.client import Registry
from mlflow_fargate.image.registry.transport import Refused

# Docker runs no image with more layers. By default, a task stores 20 GiB, unpacked.
_MAX_LAYERS, _MAX_BYTES = 125, 20 << 30


@dataclass(frozen=True)
class Base:
    """A base image, and the registry it was read from."""

    registry: Registry
    reference: Reference
    image: BaseImage


def read_base(registry: Registry, reference: Reference, *, platform: Platform, python_version: str) -> Base:
    """Reads the base image for `platform`; ImageError if there is none, it is too large, or its Python differs."""
    wanted = make_python_minor(python_version)
    try:
        found = registry.read_manifest(reference.repository, reference.identifier, platform)
    except Refused as error:
        if error.status != 404:
            raise
        local = f"on the local stack, which has only this machine's Python, run it with Python {wanted}"
        hint = _base_with(wanted) if registry.host == reference.registry else f"{local}; else {_base_with(wanted)}"
        raise ImageError(f"There is no base image {reference} for Python {wanted}.", hint=hint) from error
    _check_size(reference, found.manifest, wanted)
    config = registry.read_json(reference.repository, found.manifest.config)
    base = BaseImage.of_parts(found.manifest, found.digest, config)
    offered = f"{config.get('os')}/{config.get('architecture')}"
    if offered != str(platform):
        raise ImageError(f"The base image {reference} is for {offered}, not for {platform}.")
    if base.python_minor and base.python_minor != wanted:
        raise other_python(reference, f"Python {base.python_minor}", wanted)
    return Base(registry, reference, base)


def other_python(reference: Reference, has: str, wanted: str) -> ImageError:
    return ImageError(
        f"The base image {reference} has {has}, but the model requires Python {wanted}.",
        hint=_base_with(wanted),
    )


def _base_with(python_minor: str) -> str:
    return f"choose a base image with Python {python_minor}: base_image=docker.io/library/python:{python_minor}-slim"


def _check_size(reference: Reference, manifest: Manifest, python_minor: str) -> None:
    layers, size_bytes = len(manifest.layers), sum(layer.size_bytes for layer in manifest.layers)
    if layers > _MAX_LAYERS or size_bytes > _MAX_BYTES:
        raise ImageError(
            f"The base image {reference} has {layers:,} layers of {size_bytes / 1e9:,.1f} GB in total; "
            f"at most {_MAX_LAYERS} layers and {_MAX_BYTES / 1e9:.1f} GB are read.",
            hint=f"use a smaller base image, such as python:{python_minor}-slim",
        )

"""The base image: read from its registry, checked against what we are about to put on it, never stored here."""

from __future__ import annotations

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.image import BaseImage
from mlflow_fargate.image.packages import make_python_minor
from mlflow_fargate.image.platforms import Platform
from mlflow_fargate.image.reference import Reference
from mlflow_fargate.image.registry import Registry
from mlflow_fargate.progress import Progress


def read_base(
    registry: Registry, reference: Reference, *, platform: Platform, python_version: str, progress: Progress
) -> BaseImage:
    """The base image for `platform`; ImageError when it is for another platform or has another Python."""
    found = registry.read_manifest(reference.repository, reference.identifier, platform)
    config = registry.read_json(reference.repository, found.manifest.config)
    base = BaseImage.of_parts(found.manifest, found.digest, config)
    offered = f"{config.get('os')}/{config.get('architecture')}"
    if offered != str(platform):
        raise ImageError(f"The base image {reference} is for {offered}, not for {platform}.")
    wanted = make_python_minor(python_version)
    if base.python_minor is None:
        progress.note(f"{reference} does not say which Python it has; the packages are for Python {wanted}")
    elif base.python_minor != wanted:
        raise ImageError(
            f"The base image {reference} has Python {base.python_minor}, but the model wants Python {wanted}.",
            hint=f"use a base image with Python {wanted}, such as python:{wanted}-slim",
        )
    return base

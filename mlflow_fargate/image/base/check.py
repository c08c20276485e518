"""The base image: read from its registry, checked against what we are about to put on it, never stored here."""

from __future__ import annotations

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.base.files import BaseFiles
from mlflow_fargate.image.oci.image import BaseImage
from mlflow_fargate.image.oci.platforms import Platform
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.packages.uv import make_python_minor
from mlflow_fargate.image.registry.client import Registry


def read_base(registry: Registry, reference: Reference, *, platform: Platform, python_version: str) -> BaseImage:
    """The base image for `platform`; ImageError when it is for another platform, or says it has another Python."""
    found = registry.read_manifest(reference.repository, reference.identifier, platform)
    config = registry.read_json(reference.repository, found.manifest.config)
    base = BaseImage.of_parts(found.manifest, found.digest, config)
    offered = f"{config.get('os')}/{config.get('architecture')}"
    if offered != str(platform):
        raise ImageError(f"The base image {reference} is for {offered}, not for {platform}.")
    wanted = make_python_minor(python_version)
    if base.python_minor and base.python_minor != wanted:
        raise _no_such_python(reference, f"Python {base.python_minor}", wanted)
    return base


def check_base(reference: Reference, base: BaseImage, files: BaseFiles, *, python_version: str) -> None:
    """ImageError when what lies in the base does not suit Python packages: no Python of that version, no glibc."""
    wanted = make_python_minor(python_version)
    if files.is_this_machine:
        return
    if files.has_musl:
        raise ImageError(
            f"The base image {reference} ({files.system}) has musl as its C library; packages are taken for glibc.",
            hint=f"use a base image of Debian, Ubuntu or another system with glibc, such as python:{wanted}-slim",
        )
    # An image that names its version (Docker's own do) may have others beside it.
    if base.python_minor is None and wanted not in files.pythons:
        raise _no_such_python(reference, " and ".join(f"Python {one}" for one in files.pythons) or "no Python", wanted)


def _no_such_python(reference: Reference, has: str, wanted: str) -> ImageError:
    return ImageError(
        f"The base image {reference} has {has}, but the model wants Python {wanted}.",
        hint=f"use a base image with Python {wanted}, such as python:{wanted}-slim",
    )

"""Builds and pushes OCI images without Docker.

    spec         the image's content and its destination
    build        entry point: base + packages + service + model → an image in a registry
    assembly     finds, builds, uploads and tests its layers, then tags the image; report sums up the layers
    base/        the base image: its content, whether packages can run on it, bytecode for its standard library
    packages/    requirements → uv's lock → layers of Python packages
    debian/      system packages as a layer, without apt
    layers/      files → reproducible layers, and back
    sbom         lists what is in an image; requires the extra of that name
    oci/         manifest, configuration, references, platforms
    registry/    registry client, OCI layout in a folder, and the cache of blobs on this machine
    docker/      the alternative builder: a Dockerfile, and an engine that builds it

Nothing here knows MLflow or AWS.
"""

from __future__ import annotations

from mlflow_fargate.image.assembly import SmokeTest
from mlflow_fargate.image.build import build_image
from mlflow_fargate.image.docker import build_with_engine, export_context
from mlflow_fargate.image.layers.application import Model, ModelFiles
from mlflow_fargate.image.layers.layer import Compression
from mlflow_fargate.image.layers.streamed_file import StreamedFile
from mlflow_fargate.image.layers.unpack import Unpacked
from mlflow_fargate.image.oci.platforms import LINUX_AMD64, LINUX_ARM64, Platform
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.packages.installation import Installation, temporary_installation
from mlflow_fargate.image.packages.lock_file import is_compatible
from mlflow_fargate.image.packages.requirements import Normalized, lines_of_a_model, normalize
from mlflow_fargate.image.packages.uv import PYPI, Indexes, find_interpreter
from mlflow_fargate.image.registry.client import Registry
from mlflow_fargate.image.registry.image_store import ImageStore
from mlflow_fargate.image.registry.oci_layout import OciLayout
from mlflow_fargate.image.report import BuildReport, LayerReport, PushedImage
from mlflow_fargate.image.spec import Destination, ImageSpec

__all__ = [
    "LINUX_AMD64",
    "LINUX_ARM64",
    "PYPI",
    "BuildReport",
    "Compression",
    "Destination",
    "ImageSpec",
    "ImageStore",
    "Indexes",
    "Installation",
    "LayerReport",
    "Model",
    "ModelFiles",
    "Normalized",
    "OciLayout",
    "Platform",
    "PushedImage",
    "Reference",
    "Registry",
    "SmokeTest",
    "StreamedFile",
    "Unpacked",
    "build_image",
    "build_with_engine",
    "export_context",
    "find_interpreter",
    "is_compatible",
    "lines_of_a_model",
    "normalize",
    "temporary_installation",
]

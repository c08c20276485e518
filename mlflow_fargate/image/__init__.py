"""An OCI image, built and pushed without Docker.

    spec         what an image is made of, and where it goes
    build        the story: base + packages + service + model → an image in a registry
    assembly     its layers found, made, sent, tested and named; report says what became of each
    base/        the base image: what is in it, and whether that suits what goes onto it
    packages/    requirements → uv's lock → layers of Python packages
    debian/      packages of the system as a layer, without apt
    layers/      files → reproducible layers, and back
    oci/         manifest, configuration, references, platforms
    registry/    the way into a registry, a folder instead of one, and the blobs that are kept on this machine
    docker/      the other builder: a Dockerfile, and an engine that builds it

Nothing here knows MLflow or a cloud.
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
from mlflow_fargate.image.packages.requirements import Normalized, normalize
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
    "normalize",
    "temporary_installation",
]

"""An OCI image, built and pushed without Docker.

    build         the story: base + packages + service + model → image in a registry
    assembly · report                    its layers found, made, sent, tried and named; what became of each
    base · dependencies · application    the parts of an image: what is read, what is made, and from what
    layer · blob_cache                   files → reproducible layers, kept on this machine
    streamed_file · layer_stream         files and layers that are too large for that: sent while they are made
    requirements · lock_file · packages · bytecode    what a model asks for → what uv pins and installs, and what
                                         Python compiles of it
    installation                         the same on this machine, for what runs before there is an image
    lock_record                          what they led to, kept in the repository for machines that have nothing
    image · layout · platforms · reference    values: manifest and configuration, places in the image, names
    registry · transport · authorization · push    the way into a registry
    oci_layout                           a folder in a registry's place
    docker/                              the other builder: a Dockerfile, and an engine that builds it

Nothing here knows MLflow or a cloud.
"""

from __future__ import annotations

from mlflow_fargate.image.assembly import Trial
from mlflow_fargate.image.build import build_image
from mlflow_fargate.image.docker import build_with_engine, export_context
from mlflow_fargate.image.layers.application import ModelFiles
from mlflow_fargate.image.layers.layer import Compression
from mlflow_fargate.image.layers.streamed_file import StreamedFile
from mlflow_fargate.image.layers.unpack import Unpacked
from mlflow_fargate.image.oci.platforms import LINUX_AMD64, LINUX_ARM64, Platform
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.packages.installation import Installation, installed_packages
from mlflow_fargate.image.packages.requirements import Normalised, normalise
from mlflow_fargate.image.packages.uv import PYPI, Indexes, find_interpreter
from mlflow_fargate.image.registry.client import Registry
from mlflow_fargate.image.registry.oci_layout import OciLayout
from mlflow_fargate.image.report import BuildReport, LayerReport, PushedImage

__all__ = [
    "LINUX_AMD64",
    "LINUX_ARM64",
    "PYPI",
    "BuildReport",
    "Compression",
    "Indexes",
    "Installation",
    "LayerReport",
    "ModelFiles",
    "Normalised",
    "OciLayout",
    "Platform",
    "PushedImage",
    "Reference",
    "Registry",
    "StreamedFile",
    "Trial",
    "Unpacked",
    "build_image",
    "build_with_engine",
    "export_context",
    "find_interpreter",
    "installed_packages",
    "normalise",
]

"""Builds the same image from a Dockerfile, for users with a container engine.

build       entry point: inputs → context → image → repository
context     a folder with a Dockerfile and the files it copies, to build anywhere
engine      docker, podman or buildah: a context → an archive of the image
archive     that archive → the image in a repository

Entry point and paths are the same as in images built without an engine (layers/paths.py).
"""

from __future__ import annotations

from mlflow_fargate.image.docker.build import build_with_engine, export_context

__all__ = ["build_with_engine", "export_context"]

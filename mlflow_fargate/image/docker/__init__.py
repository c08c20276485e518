"""The same image by way of a Dockerfile, for those who have or want an engine that builds them.

build       the story: inputs → context → image → repository
context     a folder with a Dockerfile and all that it copies, to build here or elsewhere
engine      docker, podman or buildah: a context → an archive of the image
archive     that archive → the image in a repository

What starts in the image, and where things lie in it, is the same as in an image of ours (layers/paths.py).
"""

from __future__ import annotations

from mlflow_fargate.image.docker.build import build_with_engine, export_context

__all__ = ["build_with_engine", "export_context"]

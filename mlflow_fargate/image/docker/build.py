"""Builds an image with an engine: spec → context → the engine's image → repository."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlflow_fargate.image.docker.archive import push_archive
from mlflow_fargate.image.docker.context import write_context
from mlflow_fargate.image.docker.engine import build_archive
from mlflow_fargate.image.packages.uv import lock
from mlflow_fargate.image.report import PushedImage
from mlflow_fargate.image.spec import Destination, ImageSpec
from mlflow_fargate.progress import Progress


def export_context(
    folder: Path, spec: ImageSpec, *, cache: Path, progress: Progress, build_sdists: bool = False
) -> None:
    """Writes a Dockerfile for the image, and the files it copies, to `folder`."""
    locked = lock(
        spec.normalized_requirements(progress),
        python_version=spec.python_version,
        platform=spec.platform,
        cache=cache,
        indexes=spec.indexes,
        build_sdists=build_sdists,
    )
    write_context(folder, spec, locked)


def build_with_engine(
    engine: str,
    spec: ImageSpec,
    destination: Destination,
    *,
    cache: Path,
    progress: Progress,
    build_sdists: bool = False,
) -> PushedImage:
    """Builds the context with docker, podman or buildah; returns the image at its destination.

    The checks of the base in `build_image` are left to the engine.
    """
    work = cache / "work"
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="context-", dir=work) as name:
        context, archive = Path(name, "context"), Path(name, "image.tar")
        export_context(context, spec, cache=cache, progress=progress, build_sdists=build_sdists)
        tag = f"localhost/{destination.repository}:{destination.reference.identifier}"
        build_archive(engine, context, archive, name=tag, platform=spec.platform, progress=progress)
        return push_archive(archive, spec, destination, work=Path(name), progress=progress)

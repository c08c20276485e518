"""The story by way of a Dockerfile: the same inputs → a context → an engine's image → the repository."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_fargate.image.build import images_there, normalised
from mlflow_fargate.image.docker.archive import push_archive
from mlflow_fargate.image.docker.context import write_context
from mlflow_fargate.image.docker.engine import build_archive
from mlflow_fargate.image.layers.application import ModelFiles
from mlflow_fargate.image.layers.layer import Compression
from mlflow_fargate.image.oci.platforms import LINUX_AMD64, Platform
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.packages.uv import PYPI, Indexes, lock
from mlflow_fargate.image.registry.oci_layout import ImageStore
from mlflow_fargate.image.report import PushedImage
from mlflow_fargate.progress import Progress


def export_context(
    folder: Path,
    *,
    base: Reference,
    requirements: Sequence[str],
    python_version: str,
    service: Path,
    model: ModelFiles,
    cache: Path,
    progress: Progress,
    platform: Platform = LINUX_AMD64,
    environment: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    adapt_requirements: bool = True,
    further_models: Mapping[str, tuple[ModelFiles, str]] | None = None,
    indexes: Indexes = PYPI,
    system_packages: Sequence[str] = (),
    build_sdists: bool = False,
) -> None:
    """The image as a Dockerfile and all that it copies, in `folder`; the arguments are those of `build_image`."""
    lines = normalised(requirements, platform, progress, adapt=adapt_requirements)
    locked = lock(
        lines,
        python_version=python_version,
        platform=platform,
        cache=cache,
        indexes=indexes,
        build_sdists=build_sdists,
    )
    write_context(
        folder,
        base=base,
        lock=locked,
        service=service,
        model=model,
        further_models={key: files for key, (files, _) in (further_models or {}).items()},
        system_packages=system_packages,
        environment=environment or {},
        labels=labels or {},
    )


def build_with_engine(
    engine: str,
    *,
    destination: Reference,
    registry: ImageStore,
    base: Reference,
    cache: Path,
    progress: Progress,
    platform: Platform = LINUX_AMD64,
    compression: Compression = Compression.ZSTD,
    previous: Reference | None = None,
    **inputs: Any,
) -> PushedImage:
    """The image that docker, podman or buildah makes of the context, in the repository of `destination`.

    The other arguments are those of `export_context`. What `build_image` checks of the base is the engine's business.
    """
    work = cache / "work"
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="context-", dir=work) as name:
        context, archive = Path(name, "context"), Path(name, "image.tar")
        export_context(context, base=base, platform=platform, cache=cache, progress=progress, **inputs)
        tag = f"localhost/{destination.repository}:{destination.identifier}"
        build_archive(engine, context, archive, name=tag, platform=platform, progress=progress)
        return push_archive(
            archive,
            destination=destination,
            registry=registry,
            base=base,
            platform=platform,
            compression=compression,
            there=images_there(registry, destination, previous, platform),
            work=Path(name),
            progress=progress,
        )

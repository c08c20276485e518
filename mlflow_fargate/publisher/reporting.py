"""Around the making of any image: what it is built on, where it is looked for, what people are told."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow_fargate.errors import DiskFull
from mlflow_fargate.image import BuildReport, Platform, Reference, Registry
from mlflow_fargate.progress import Progress, format_bytes
from mlflow_fargate.target import Target

# Docker's official Python images, from the copy that AWS keeps: no login, no rate limit worth the name.
_BASE_IMAGE = "public.ecr.aws/docker/library/python:{minor}-slim"
_PLATFORMS = {"X86_64": "linux/amd64", "ARM64": "linux/arm64"}


def default_base_image(python_minor: str) -> str:
    """What an image with this Python ('3.11') is built on where nothing else is named."""
    return _BASE_IMAGE.format(minor=python_minor)


def platform_of(architecture: str) -> Platform:
    """OCI's word for what ECS calls X86_64 or ARM64."""
    return Platform.parse(_PLATFORMS[architecture])


def registry_of_base(base: Reference, target: Target) -> Registry:
    """Where a base image is read from: its own registry, or what stands for that around the target."""
    return Registry(target.environment.registry_mirrors.get(base.registry, base.registry))


def tell_of_layers(report: BuildReport, progress: Progress) -> None:
    """What became of each layer, and of all of them."""
    for layer in report.layers:
        sent = f"{format_bytes(layer.sent_bytes)} sent" if layer.sent_bytes else "already there"
        progress.note(f"{layer.name}: {format_bytes(layer.size_bytes)}, {layer.origin}, {sent}")
    progress.note(f"image of {format_bytes(report.size_bytes)}, {format_bytes(report.sent_bytes)} sent")


def find_image(registry: Registry, tagged: Reference) -> Reference | None:
    """The image under a tag, by digest; None when the repository has no such tag."""
    digest = registry.manifest_digest(tagged.repository, str(tagged.tag))
    return tagged.with_digest(digest) if digest else None


@contextmanager
def telling_of_a_full_disk(cache: Path) -> Iterator[None]:
    """Around what writes to this machine's disk; DiskFull says what to do when there is no room left."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"The disk of this machine is full ({error.filename or tempfile.gettempdir()}).",
            hint=f"free some space; the cache is {cache} (MLFLOW_FARGATE_CACHE moves it, TMPDIR what is temporary)",
        ) from error

"""Installs the packages of some requirements on this machine temporarily, to run something with them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow_fargate.image.oci.platforms import Platform
from mlflow_fargate.image.packages.requirements import normalize
from mlflow_fargate.image.packages.uv import Indexes, install, lock


@dataclass(frozen=True)
class Installation:
    """A folder for PYTHONPATH, and the packages in it."""

    site: Path
    pins: Mapping[str, str]  # package → NAME==VERSION


@contextmanager
def temporary_installation(
    requirements: Sequence[str], *, python_version: str, platform: Platform, indexes: Indexes, adapt: bool, cache: Path
) -> Iterator[Installation]:
    """Yields the packages of an image with these requirements; raises ImageError if they cannot be satisfied."""
    lines = normalize(requirements, machine=platform.machine, adapt=adapt).lines
    locked = lock(lines, python_version=python_version, platform=platform, cache=cache, indexes=indexes)
    work = cache / "work"  # on the same file system as uv's cache, so files are links
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="site-", dir=work) as folder:
        install(locked, Path(folder))
        yield Installation(Path(folder), {package.name: package.requirement for package in locked.packages})

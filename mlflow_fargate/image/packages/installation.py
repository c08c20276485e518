"""The packages that requirements lead to, installed on this machine for as long as something runs with them."""

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
    """A folder for PYTHONPATH, and what is in it."""

    site: Path
    pins: Mapping[str, str]  # package → NAME==VERSION


@contextmanager
def temporary_installation(
    requirements: Sequence[str], *, python_version: str, platform: Platform, indexes: Indexes, adapt: bool, cache: Path
) -> Iterator[Installation]:
    """What an image with these requirements would hold; ImageError when they cannot be met."""
    lines = normalize(requirements, machine=platform.machine, adapt=adapt).lines
    locked = lock(lines, python_version=python_version, platform=platform, cache=cache, indexes=indexes)
    work = cache / "work"  # on the file system of uv's cache, where files are links
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="site-", dir=work) as folder:
        install(locked, Path(folder))
        yield Installation(Path(folder), {package.name: package.requirement for package in locked.packages})

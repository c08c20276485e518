"""Installs the packages of some requirements on this machine temporarily, to run something with them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from mlflow_fargate.image.oci.platforms import Platform
from mlflow_fargate.image.packages.requirements import normalize
from mlflow_fargate.image.packages.uv import Indexes, install, lock
from mlflow_fargate.requirement_files import MODEL_FILES


@dataclass(frozen=True)
class Installation:
    """A folder for PYTHONPATH, and the packages in it."""

    site: Path
    pins: Mapping[str, str]  # package → NAME==VERSION, or NAME @ model:… for a wheel of the model


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
        files = f"{(cache / 'models').absolute().as_uri()}/"
        yield Installation(Path(folder), {one.name: _as_asked(one.requirement, files) for one in locked.packages})


def _as_asked(requirement: str, files: str) -> str:
    """Returns the requirement as its line has it: a wheel of the model is not a path on this machine."""
    name, at, url = requirement.partition(" @ ")
    return f"{name}{at}{MODEL_FILES}{unquote(url.removeprefix(files))}" if url.startswith(files) else requirement

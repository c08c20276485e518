"""A lock: each package of an image at one version, with the hashes of its files. Pure values, and their parser.

Source: https://packaging.python.org/en/latest/specifications/pylock-toml/
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tomli

from mlflow_fargate.image.oci.platforms import Platform


@dataclass(frozen=True)
class LockedPackage:
    """A package, and its wheels for the lock's platform (usually one).

    If it has none, its source distribution is listed instead, and a wheel is built from that.
    """

    name: str
    requirement: str = field(repr=False)  # NAME==VERSION, or NAME @ URL (which may carry credentials)
    hashes: tuple[str, ...]  # 'sha256:…' of the wheels
    size_bytes: int = 0  # of the largest wheel; 0: unknown
    is_sdist: bool = False

    @property
    def version(self) -> str:
        """Returns its version, or '' if it is required by a URL."""
        return "" if " @ " in self.requirement else self.requirement.partition("==")[2]

    @property
    def text(self) -> str:
        """Returns a line of a requirements file."""
        return " \\\n    ".join((self.requirement, *(f"--hash={digest}" for digest in self.hashes)))


@dataclass(frozen=True)
class Lock:
    """Pins with hashes. Never show its indexes: URLs can contain credentials."""

    packages: tuple[LockedPackage, ...]
    python_version: str  # minor: '3.11'
    platform: Platform
    index_options: tuple[str, ...] = field(default=(), repr=False)

    @property
    def text(self) -> str:
        """Returns a requirements file; never show it."""
        return "".join(f"{package.text}\n" for package in self.packages)

    @property
    def sdists(self) -> tuple[str, ...]:
        """Returns the names of the packages that are built from source."""
        return tuple(package.name for package in self.packages if package.is_sdist)

    def only(self, packages: Sequence[LockedPackage]) -> Lock:
        """Returns the same lock for fewer packages."""
        return replace(self, packages=tuple(packages))


def parse_pylock(text: str) -> tuple[LockedPackage, ...]:
    """Returns the packages of a `pylock.toml` for one platform, by name."""
    packages = tomli.loads(text).get("packages", ())
    return tuple(sorted((_locked_package(data) for data in packages), key=lambda package: package.name))


def _locked_package(data: dict[str, Any]) -> LockedPackage:
    name, archive = str(data["name"]), data.get("archive")
    wheels = [archive] if archive else data.get("wheels", [])
    is_sdist = not wheels and "sdist" in data
    if is_sdist:
        wheels = [data["sdist"]]
    hashes = sorted(f"{kind}:{value}" for wheel in wheels for kind, value in wheel["hashes"].items())
    requirement = f"{name} @ {archive['url']}" if archive else f"{name}=={data['version']}"
    size_bytes = max((wheel.get("size", 0) for wheel in wheels), default=0)
    return LockedPackage(name, requirement, tuple(hashes), size_bytes, is_sdist=is_sdist)

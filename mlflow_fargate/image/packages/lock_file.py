"""A lock: each package of an image at one version, with the hashes of its files. Pure values, and their parser.

Source: https://packaging.python.org/en/latest/specifications/pylock-toml/
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import tomli
from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.oci.platforms import Platform
from mlflow_fargate.requirement_files import CONSTRAINT, is_constraint, without_hashes
from mlflow_fargate.resolved_model import without_credentials


@dataclass(frozen=True)
class LockedPackage:
    """A package, and its wheel for the lock's platform.

    If it has none, its source distribution is listed instead, and a wheel is built from that.
    """

    name: str
    requirement: str = field(repr=False)  # NAME==VERSION, or NAME @ URL (which may carry credentials)
    hashes: tuple[str, ...]  # 'sha256:…' of the wheel
    size_bytes: int = 0  # of the wheel; 0: unknown
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


def parse_pylock(text: str, python_version: str, platform: Platform) -> tuple[LockedPackage, ...]:
    """Returns the packages of a `pylock.toml`, by name, each with the wheel that an installer takes.

    So the result does not depend on which other wheels the file lists: some versions of uv list those of all platforms.
    """
    packages = tomli.loads(text).get("packages", ())
    ranks = _tag_ranks(python_version, platform)
    return tuple(sorted((_locked_package(data, ranks) for data in packages), key=lambda package: package.name))


def check_hashes(packages: Sequence[LockedPackage], lines: Sequence[str]) -> None:
    """Raises ImageError if a constraint of the version that is locked allows only files with other hashes."""
    locked = {package.name: package for package in packages}
    for line in filter(is_constraint, lines):
        bare, hashes = without_hashes(line.removeprefix(CONSTRAINT))
        package = locked.get((limit := Requirement(bare)).name)
        if not hashes or package is None or not limit.specifier.contains(package.version or "0", prereleases=True):
            continue
        if not set(hashes) & set(package.hashes):
            raise ImageError(
                f"The file of {package.name} {package.version} has another hash than the requirements allow: "
                f"{', '.join(package.hashes)}.",
                hint="compare it with the hashes that the package's author published; if it is right, add it",
            )


def check_urls(packages: Iterable[LockedPackage], lines: Iterable[str]) -> None:
    """Raises ImageError for a package by URL that no line names: a wheel can require packages from anywhere."""
    named = {_place(line.partition("@")[2].partition(" ;")[0]) for line in lines}
    for package in packages:
        _, at, url = package.requirement.partition(" @ ")
        if at and _place(url) not in named:
            raise ImageError(
                f"A package of the model requires {package.name} by URL, which is not allowed: "
                f"{without_credentials(url)[:300]}.",
                hint=f"if you trust it, name it yourself: requirements={package.name} @ URL",
            )


def _place(url: str) -> tuple[str, str]:
    """Where a URL leads, however it is written."""
    parts = urlsplit(url.strip())
    return parts.netloc.rpartition("@")[2], unquote(parts.path)


def is_compatible(tags: Collection[Tag], python_version: str, platform: Platform) -> bool:
    """Returns whether a wheel with one of these tags can be installed."""
    return any(tag in _tag_ranks(python_version, platform) for tag in tags)


def _locked_package(data: Mapping[str, Any], ranks: Mapping[Tag, int]) -> LockedPackage:
    name, archive, wheels = str(data["name"]), data.get("archive"), data.get("wheels", ())
    url = archive.get("url") or Path(archive["path"]).as_uri() if archive else ""
    is_sdist = not urlsplit(url).path.endswith(".whl") if archive else not wheels and "sdist" in data
    wheel: Mapping[str, Any] = max(wheels, key=lambda one: _fit(one, ranks), default={})
    file = archive or (data["sdist"] if is_sdist else wheel)
    hashes = sorted(f"{kind}:{value}" for kind, value in file.get("hashes", {}).items())
    requirement = f"{name} @ {url}" if archive else f"{name}=={data['version']}"
    return LockedPackage(name, requirement, tuple(hashes), file.get("size", 0), is_sdist=is_sdist)


def _fit(wheel: Mapping[str, Any], ranks: Mapping[Tag, int]) -> tuple[Any, ...]:
    """Returns a value that is larger for wheels that an installer prefers: by tag, then by build number."""
    name = wheel.get("name") or unquote(urlsplit(wheel.get("url") or wheel["path"]).path.rpartition("/")[2])
    _, _, build, tags = parse_wheel_filename(name)
    return max(ranks.get(tag, -1) for tag in tags), build, name


@cache
def _tag_ranks(python_version: str, platform: Platform) -> Mapping[Tag, int]:
    """Returns the tags of wheels that fit; the higher, the better.

    Source: https://packaging.python.org/en/latest/specifications/platform-compatibility-tags/#use
    """
    version, platforms = [int(part) for part in python_version.split(".")], list(_wheel_platforms(platform))
    fitting = [*cpython_tags(version, platforms=platforms)]
    fitting += compatible_tags(version, f"cp{version[0]}{version[1]}", platforms)
    return {tag: -position for position, tag in enumerate(fitting, -len(fitting))}


def _wheel_platforms(platform: Platform) -> Iterator[str]:
    old = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    for glibc in range(int(platform.wheel_platform.rpartition("_")[2]), 4, -1):
        yield f"manylinux_2_{glibc}_{platform.machine}"
        if glibc in old:
            yield f"{old[glibc]}_{platform.machine}"
    yield f"linux_{platform.machine}"

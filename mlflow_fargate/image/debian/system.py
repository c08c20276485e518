"""Builds the layer of system packages: the requested ones and the dependencies that the base lacks.

No package code is run. Most libraries only need to be where the loader looks; a package whose scripts do more than that
is rejected, and other scripts are noted.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow_fargate import atomic_files
from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.base.files import BaseFiles
from mlflow_fargate.image.debian.archive import Archive
from mlflow_fargate.image.debian.control import DebianPackage, parse_status
from mlflow_fargate.image.debian.resolve import resolve
from mlflow_fargate.image.debian.unpack import UnpackedDeb, unpack_deb
from mlflow_fargate.image.layers.layer import Compression, Files, Recipe, make_layer_key
from mlflow_fargate.image.oci.image import encode_json, sha256_digest
from mlflow_fargate.image.oci.platforms import Platform
from mlflow_fargate.image.packages.shared_libraries import find_libraries

NAME = "system"
Note = Callable[[str], None]
# As for Python packages: get recent security fixes, but not a new layer on every deployment of a day.
_MAX_AGE_SECONDS = 24 * 3600
# Commands in a script that change how the package's files are found, or who owns them.
_MATTERS = re.compile(
    r"update-alternatives|dpkg-divert|adduser|addgroup|useradd|groupadd|update-ca-certificates|fc-cache|ln -s"
)


def make_system_recipe(
    names: Sequence[str],
    base: BaseFiles,
    *,
    platform: Platform,
    compression: Compression,
    cache: Path,
    note: Note,
    clock: Callable[[], float] = time.time,
) -> Recipe | None:
    """Returns the layer with these Debian packages for this base; None if the base has them all.

    Raises ImageError if the base is not Debian, or if a package is unavailable or does not work without its scripts.
    """
    if base.is_this_machine and base.release.get("ID") != "debian":
        note(
            f"{', '.join(names)} not added: on the local stack, the base image uses this machine's system, "
            f"{base.system}"
        )
        return None
    archive = Archive(_codename(base), platform.architecture, cache=cache)
    key = sha256_digest(encode_json([sorted(names), base.packages, dict(base.release), str(platform)]))[7:]
    packages = _resolved(names, base, archive, cache / "debian" / "locks" / f"{key}.json", clock)
    if not packages:
        note(f"already in the base image: {', '.join(names)}")
        return None
    about = f"system packages: {', '.join(f'{one.name} {one.version}' for one in packages)}"
    note(about)
    layer_key = make_layer_key(NAME, compression, packages=[[one.name, one.version, one.sha256] for one in packages])
    libraries = cache / "shared-libraries" / f"{layer_key}.json"

    @contextmanager
    def files() -> Iterator[Files]:
        with tempfile.TemporaryDirectory(prefix="debian-", dir=cache) as directory:
            unpacked = [unpack_deb(archive.fetch(one), Path(directory, one.name)) for one in packages]
            found = merged_files(packages, unpacked, Path(directory), note)
            find_libraries(found, Path(directory)).save(libraries)
            yield found

    return Recipe(NAME, layer_key, files, keep_executable=True, libraries=libraries, links=True, about=about)


def _codename(base: BaseFiles) -> str:
    codename = base.release.get("VERSION_CODENAME", "")
    if base.release.get("ID") != "debian" or not codename or not base.packages:
        raise ImageError(
            f"system_packages requires a Debian base image with dpkg's package list; this one is {base.system}.",
            hint="use a Debian base image (python:3.X-slim), or one that already has the packages (base_image=…)",
        )
    return codename


def merged_files(
    packages: Sequence[DebianPackage], unpacked: Sequence[UnpackedDeb], work: Path, note: Note
) -> dict[str, Path]:
    """Returns all files by their path in the image; a link becomes the file it points to.

    Each package's control paragraph is added where image scanners look for it (as in distroless images).
    """
    _check_scripts(packages, unpacked, note)
    files = {name: path for deb in unpacked for name, path in deb.files.items()}
    links = {name: target for deb in unpacked for name, target in deb.links.items()}
    lost = []
    for name in links:
        target = _follow(name, links)
        if target in files:
            files[name] = files[target]
        elif not any(file.startswith(f"{target}/") for file in files):
            lost.append(f"/{name}")
    if lost:
        note(f"skipped symlinks in system packages whose targets are in the base image: {', '.join(sorted(lost))}")
    for package, deb in zip(packages, unpacked, strict=True):
        path = work / f"{package.name}.control"
        path.write_text(f"{deb.control.strip()}\nStatus: install ok installed\n")
        files[f"var/lib/dpkg/status.d/{package.name}"] = path
    return files


def _check_scripts(packages: Sequence[DebianPackage], unpacked: Sequence[UnpackedDeb], note: Note) -> None:
    for package, deb in zip(packages, unpacked, strict=True):
        for name, text in deb.scripts.items():
            if did := _MATTERS.search(text):
                raise ImageError(
                    f"The Debian package {package.name} does not work without its {name} script, "
                    f"which calls {did[0].split()[0]}; scripts are not run.",
                    hint="use a base image that has the package (base_image=…)",
                )
            note(f"skipped the {name} script of {package.name}")


def _follow(name: str, links: Mapping[str, str]) -> str:
    for _ in range(40):  # Linux's limit
        if name not in links:
            break
        name = links[name]
    return name


def _resolved(
    names: Sequence[str],
    base: BaseFiles,
    archive: Archive,
    path: Path,
    clock: Callable[[], float],
) -> tuple[DebianPackage, ...]:
    """Returns the packages to add; reuses the result of an earlier call for a day."""
    with suppress(OSError, ValueError, TypeError):
        if clock() - path.stat().st_mtime < _MAX_AGE_SECONDS:
            return tuple(DebianPackage(**data) for data in json.loads(path.read_text()))
    packages = resolve(names, archive.packages(), parse_status(base.packages))
    kept = ("name", "version", "path", "sha256", "size_bytes", "archive")
    atomic_files.write(path, json.dumps([{name: getattr(package, name) for name in kept} for package in packages]))
    return packages

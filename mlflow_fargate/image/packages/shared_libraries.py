"""Finds the shared libraries that an image's packages need, and whether anything in the image provides them.

A wheel contains most of what it needs, and relies on the system for the rest. A missing library would surface at the
first import, in a task on Fargate, minutes later; here it surfaces before anything is deployed. Names are compared, not
paths: a library anywhere in the image counts as found, because packages load their own from any path. For glibc, which
every wheel needs, the version matters too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from mlflow_fargate import atomic_files
from mlflow_fargate.image.packages.file_lists import read_file_lists
from mlflow_fargate.image.packages.optional_imports import is_optional

# Versions can contain letters: OpenSSL's libcrypto.so.1.1.1k, which many wheels contain.
LIBRARY_NAME = re.compile(r".*\.so(\.\d[\w.-]*)?", re.ASCII)
# So many extension modules need them that no package expects their imports to fail.
_IN_EVERY_BASE = re.compile(r"(lib(c|m|dl|pthread|rt|gcc_s|stdc\+\+)|ld-linux-.*)\.so\.\d")
# The common ones: the Debian package (in current releases) for a library that wheels expect in the system.
_DEBIAN_PACKAGES = {
    "libgomp.so.1": "libgomp1",
    "libatomic.so.1": "libatomic1",
    "libgfortran.so.5": "libgfortran5",
    "libquadmath.so.0": "libquadmath0",
    "libstdc++.so.6": "libstdc++6",
    "libz.so.1": "zlib1g",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libX11.so.6": "libx11-6",
    "libXext.so.6": "libxext6",
    "libXrender.so.1": "libxrender1",
    "libSM.so.6": "libsm6",
    "libICE.so.6": "libice6",
    "libxcb.so.1": "libxcb1",
    "libsndfile.so.1": "libsndfile1",
    "libpq.so.5": "libpq5",
    "libodbc.so.2": "libodbc2",
    "libxml2.so.2": "libxml2",
    "libexpat.so.1": "libexpat1",
    "libOpenCL.so.1": "ocl-icd-libopencl1",
}


@dataclass(frozen=True)
class SharedLibraries:
    """The names of a layer's libraries, and the libraries they need."""

    offered: tuple[str, ...] = ()
    needed: Mapping[str, list[str]] = field(default_factory=dict, hash=False)  # libgomp.so.1 → ["lightgbm"]
    glibc: Mapping[str, list[str]] = field(default_factory=dict, hash=False)  # 2.28 → packages that need at most that

    def save(self, path: Path) -> None:
        atomic_files.write(path, json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> SharedLibraries | None:
        """Returns what was saved there; None if missing or unreadable."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            known = json.loads(path.read_text())
            return cls(known["offered"], known["needed"], known["glibc"])
        return None


def find_libraries(files: Mapping[str, Path], site: Path) -> SharedLibraries:
    """Returns the libraries in `files`, which come from an installation in `site`."""
    owners = {file: owner for owner, files in read_file_lists(site).items() for file in files}
    offered: set[str] = set()
    needed: dict[str, dict[Path, str]] = {}
    glibc: dict[str, tuple[int, int]] = {}
    for name, path in files.items():
        if LIBRARY_NAME.fullmatch(name):
            own_names, wanted, newest = _read_library(path)
            offered |= {name.rpartition("/")[2], *own_names}
            owner = owners.get(path.relative_to(site).as_posix(), "") if path.is_relative_to(site) else ""
            for library in wanted:
                needed.setdefault(library, {})[path] = owner or path.name
            if newest:
                glibc[owner or path.name] = max(newest, glibc.get(owner or path.name, newest))
    for library in (one for one in needed.keys() - offered if not _IN_EVERY_BASE.fullmatch(one)):
        users = needed[library].items()
        needed[library] = {path: owner for path, owner in users if not is_optional(path, _sources(owner, owners, site))}
    return SharedLibraries(
        tuple(sorted(offered)),
        {library: sorted({*by.values()}) for library, by in sorted(needed.items()) if by and library not in offered},
        {
            f"{version[0]}.{version[1]}": sorted(one for one in glibc if glibc[one] == version)
            for version in sorted(set(glibc.values()))
        },
    )


def _sources(owner: str, owners: Mapping[str, str], site: Path) -> list[Path]:
    files = (site / file for file, name in owners.items() if name == owner and file.endswith(".py"))
    return [path for path in files if path.is_file()]


def find_missing(layers: Iterable[SharedLibraries], offered: frozenset[str]) -> dict[str, list[str]]:
    """Returns missing libraries → the packages that need them; the base provides `offered`. Pure."""
    layers = list(layers)
    there = offered.union(*(layer.offered for layer in layers))
    missing: dict[str, set[str]] = {}
    for layer in layers:
        for library, packages in layer.needed.items():
            if library not in there:
                missing.setdefault(library, set()).update(packages)
    return {library: sorted(packages) for library, packages in sorted(missing.items())}


def find_too_new(layers: Iterable[SharedLibraries], glibc: str) -> dict[str, list[str]]:
    """Returns versions of glibc newer than the base's `glibc` → packages that need them. Pure."""
    has = _parse_glibc(f"GLIBC_{glibc}")
    found: dict[str, set[str]] = {}
    for layer in layers:
        for version, packages in layer.glibc.items():
            needs = _parse_glibc(f"GLIBC_{version}")
            if has and needs and needs > has:
                found.setdefault(version, set()).update(packages)
    return {version: sorted(packages) for version, packages in sorted(found.items())}


def defined_glibc(file: IO[bytes]) -> str | None:
    """Returns the glibc version ('2.36') of this libc.so.6; None if it is not glibc."""
    with suppress(ELFError):
        sections = ELFFile(file).iter_sections("SHT_GNU_verdef")
        names = [names for section in sections for _, names in section.iter_versions()]
        found = [version for group in names for one in group if (version := _parse_glibc(one.name))]
        if found:
            return "{}.{}".format(*max(found))
    return None


def debian_packages(libraries: Iterable[str]) -> list[str]:
    """Returns the Debian packages for these libraries, if known."""
    return sorted({_DEBIAN_PACKAGES[library] for library in libraries if library in _DEBIAN_PACKAGES})


def _read_library(path: Path) -> tuple[list[str], list[str], tuple[int, int] | None]:
    """Returns SONAME, NEEDED and the newest glibc required; nothing for files other than ELF, such as linker scripts.

    The version comes from symbols; a wheel's tag (manylinux_2_28) is only an upper bound.
    Source: System V ABI, gABI 4.1, chapter 5, dynamic section; Linux Standard Base Core, chapter 10, symbol versioning.
    """
    own: list[str] = []
    needed: list[str] = []
    versions: list[tuple[int, int]] = []
    with path.open("rb") as file, suppress(ELFError):
        elf = ELFFile(file)
        for segment in elf.iter_segments("PT_DYNAMIC"):
            for tag in segment.iter_tags():
                if tag.entry.d_tag == "DT_NEEDED":
                    needed.append(tag.needed)
                elif tag.entry.d_tag == "DT_SONAME":
                    own.append(tag.soname)
        for section in elf.iter_sections("SHT_GNU_verneed"):
            names = (one.name for _, group in section.iter_versions() for one in group)
            versions += [version for version in map(_parse_glibc, names) if version]
    return own, needed, max(versions, default=None)


def _parse_glibc(symbol_version: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"GLIBC_(\d+)\.(\d+)(\.\d+)?", symbol_version)
    return (int(found[1]), int(found[2])) if found else None

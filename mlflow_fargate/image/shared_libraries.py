"""Shared libraries: which the packages of an image need, and whether anything in it has them.

A wheel brings most of what it needs, and relies on the system for the rest. What is missing shows at the first import,
in a task on Fargate, minutes later; here it shows before anything is deployed. Names are compared and no paths: a
library that lies anywhere in the image counts as found, since packages load their own from where they like.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

_LIBRARY = re.compile(r".*\.so(\.[0-9.]+)?")
# What people meet: the Debian package (of today's releases) that has a library which wheels leave to the system.
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
    """What a layer's libraries are called, and what they need of others."""

    offered: tuple[str, ...] = ()
    needed: Mapping[str, list[str]] = field(default_factory=dict, hash=False)  # libgomp.so.1 → ["lightgbm"]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(self)))
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> SharedLibraries | None:
        """What was saved there; None when nothing (readable) was."""
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(path.read_text()))
        return None


def find_libraries(files: Mapping[str, Path], site: Path) -> SharedLibraries:
    """The libraries among `files`, which come from an installation in `site`."""
    owners = _read_owners(site)
    offered: set[str] = set()
    needed: dict[str, set[str]] = {}
    for name, path in files.items():
        if _LIBRARY.fullmatch(name):
            own_names, wanted = _read_dynamic_section(path)
            offered |= {name.rpartition("/")[2], *own_names}
            owner = owners.get(path.relative_to(site).as_posix(), "") if path.is_relative_to(site) else ""
            for library in wanted:
                needed.setdefault(library, set()).add(owner or path.name)
    return SharedLibraries(
        tuple(sorted(offered)),
        {library: sorted(by) for library, by in sorted(needed.items()) if library not in offered},
    )


def find_missing(layers: Iterable[SharedLibraries], offered: frozenset[str]) -> dict[str, list[str]]:
    """Libraries that neither the layers nor the base (which has `offered`) have → packages that need them. Pure."""
    layers = list(layers)
    there = offered.union(*(layer.offered for layer in layers))
    missing: dict[str, set[str]] = {}
    for layer in layers:
        for library, packages in layer.needed.items():
            if library not in there:
                missing.setdefault(library, set()).update(packages)
    return {library: sorted(packages) for library, packages in sorted(missing.items())}


def debian_packages(libraries: Iterable[str]) -> list[str]:
    """The Debian packages that have these libraries, as far as we know them."""
    return sorted({_DEBIAN_PACKAGES[library] for library in libraries if library in _DEBIAN_PACKAGES})


def _read_dynamic_section(path: Path) -> tuple[list[str], list[str]]:
    """SONAME and NEEDED of an ELF file; nothing of what is none (linker scripts are called .so too).

    Source: System V ABI, gABI 4.1, chapter 5, dynamic section.
    """
    own: list[str] = []
    needed: list[str] = []
    with path.open("rb") as file, suppress(ELFError):
        for segment in ELFFile(file).iter_segments("PT_DYNAMIC"):
            for tag in segment.iter_tags():
                if tag.entry.d_tag == "DT_NEEDED":
                    needed.append(tag.needed)
                elif tag.entry.d_tag == "DT_SONAME":
                    own.append(tag.soname)
    return own, needed


def _read_owners(site: Path) -> dict[str, str]:
    """Which distribution a library belongs to, from the wheels' own lists of files."""
    owners: dict[str, str] = {}
    for record in site.glob("*.dist-info/RECORD"):
        owner = record.parent.name.partition("-")[0].replace("_", "-").lower()
        with record.open(encoding="utf-8", newline="") as file:
            owners.update({row[0]: owner for row in csv.reader(file) if row and _LIBRARY.fullmatch(row[0])})
    return owners

"""The layers that hold the packages: which they are, and what of an installation goes into them.

Each heavy package has a layer of its own, the rest share one. A layer's key is made of its own wheels' hashes, not of
the lock: a pin that changes sends its layer again and no other.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow_fargate.image.layers.layer import Compression, Files, Recipe, files_below, make_layer_key
from mlflow_fargate.image.layers.paths import SITE
from mlflow_fargate.image.packages.bytecode import compiled_files
from mlflow_fargate.image.packages.lock_file import Lock, LockedPackage
from mlflow_fargate.image.packages.shared_libraries import find_libraries
from mlflow_fargate.image.packages.uv import find_interpreter, install

Note = Callable[[str], None]

# What serving never reads, package by package and reviewed by importing each of them without it. Never a general
# pattern: `*/test/*` would take tensorflow/_api/v2/__internal__/test, and TensorFlow no longer imports.
_NEEDLESS = (
    r"tensorflow/include/.*",
    r"clang/.*",
    r"(numpy|scipy|sklearn|pandas|pyarrow|h5py)/(.+/)?tests/.*",
    r"pyarrow/include/.*",
)
# What differs between two installations of the same lock, or is about this machine: scripts name its interpreter.
_OF_THE_INSTALLATION = (
    r"bin/.*",
    r"\.lock",
    r"[^/]+\.dist-info/(INSTALLER|REQUESTED|RECORD|direct_url\.json|uv_cache\.json|uv_build\.json)",
)
_DROPPED = (*_NEEDLESS, *_OF_THE_INSTALLATION)
_DROPPED_PATTERN = re.compile("|".join(f"(?:{pattern})" for pattern in _DROPPED))
# What is worth a layer: compressed, about a second of upload.
_HEAVY_BYTES = 10 * 10**6
# A registry and a container runtime handle layers one by one, so a few are better than many.
_MAX_GROUPS = 6
# Old setuptools' own, which no package relies on.
_HARMLESS_PTH = {"distutils-precedence.pth"}


def make_package_recipes(
    lock: Lock, compression: Compression, cache: Path, note: Note, programs: Collection[str] = ()
) -> list[Recipe]:
    """The layers with the packages of the lock; each is installed (below `cache`) only if it has to be made.

    `programs` are packages that bring a program of their own name, no script, which is kept.

    Python's compiled files go along (a container cannot write them, and starts in half the time with them) if there is
    a Python of the same minor version here; a note says if not.
    """
    interpreter = find_interpreter(lock.python_version)
    if not interpreter:
        note(f"there is no Python {lock.python_version} here to compile packages with, so the model will start slower")
    groups = [_Group(name, lock.only(packages), programs) for name, packages in make_groups(lock.packages)]
    return [_make_recipe(group, compression, interpreter, cache, note) for group in groups]


def make_groups(packages: Sequence[LockedPackage]) -> list[tuple[str, list[LockedPackage]]]:
    """A layer for each of the heaviest packages and one for all others, so that a changed pin resends little. Pure."""
    heavy = sorted((one for one in packages if one.size_bytes >= _HEAVY_BYTES), key=lambda one: -one.size_bytes)
    alone = heavy[: _MAX_GROUPS - 1]
    rest = [one for one in packages if one not in alone]
    return [*((one.name, [one]) for one in alone), *([("dependencies", rest)] if rest else [])]


@dataclass(frozen=True)
class _Group:
    """The packages of one layer."""

    name: str
    lock: Lock
    programs: Collection[str]

    @property
    def kept_programs(self) -> list[str]:
        return sorted({one.name for one in self.lock.packages} & set(self.programs))

    def key(self, compression: Compression, *, compiled: bool) -> str:
        return make_layer_key(
            self.name,
            compression,
            packages=[[one.name, *one.hashes] for one in self.lock.packages],
            python=self.lock.python_version,
            platform=str(self.lock.platform),
            dropped=_DROPPED,
            compiled=compiled,
            **({"programs": self.kept_programs} if self.kept_programs else {}),
        )


def _make_recipe(group: _Group, compression: Compression, interpreter: str | None, cache: Path, note: Note) -> Recipe:
    count = len(group.lock.packages)
    compiled, plain = (group.key(compression, compiled=compiled) for compiled in (True, False))
    # Compiled or not, its libraries are the same.
    libraries = cache / "shared-libraries" / f"{plain}.json"

    @contextmanager
    def files() -> Iterator[Files]:
        work = cache / "work"
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="site-", dir=work) as directory:
            site = Path(directory).resolve()
            note(f"installing {group.name if count == 1 else f'{count} packages'}")
            install(group.lock, site)
            found = site_files(site, note, group.kept_programs)
            find_libraries(found, site).save(libraries)
            yield {**found, **compiled_files(found, interpreter, cache)} if interpreter else found

    # A layer with compiled files made elsewhere is as good as one without them made here.
    key, others = (compiled, ()) if interpreter else (plain, (compiled,))
    return Recipe(group.name, key, files, other_keys=others, keep_executable=True, libraries=libraries)


def site_files(site: Path, note: Note, programs: Collection[str] = ()) -> dict[str, Path]:
    """The files of an installation that go into the image, by their path there."""
    prefix = SITE.lstrip("/")
    kept = {f"bin/{program}" for program in programs}
    installed = files_below(site).items()
    found = {name: path for name, path in installed if name in kept or not _DROPPED_PATTERN.fullmatch(name)}
    ignored = sorted(name for name in found if name.endswith(".pth") and name not in _HARMLESS_PTH and "/" not in name)
    if ignored:
        note(f"Python does not read {', '.join(ignored)} from where packages are in the image; most need not")
    return {f"{prefix}/{name}": path for name, path in found.items()}

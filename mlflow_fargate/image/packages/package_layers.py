"""The layers with the packages: how they are split, and which files of an installation go into them.

Each heavy package has its own layer, the rest share one. A layer's key is computed from its own wheels' hashes, not
from the lock, so a changed pin uploads only its own layer again.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow_fargate.image.layers.layer import Compression, Files, Recipe, files_below, make_layer_key
from mlflow_fargate.image.layers.paths import LOCKS, SITE
from mlflow_fargate.image.packages.bytecode import compiled_files
from mlflow_fargate.image.packages.file_lists import check_code, read_file_lists, save_code
from mlflow_fargate.image.packages.lock_file import Lock, LockedPackage
from mlflow_fargate.image.packages.shared_libraries import find_libraries
from mlflow_fargate.image.packages.uv import find_interpreter, install

Note = Callable[[str], None]

# Files that serving never reads, per package; reviewed by importing each package without them. Never use a general
# pattern: `*/test/*` would match tensorflow/_api/v2/__internal__/test, and TensorFlow could not be imported.
_NEEDLESS = (
    r"tensorflow/include/.*",
    r"clang/.*",
    r"(numpy|scipy|sklearn|pandas|pyarrow|h5py)/(.+/)?tests/.*",
    r"pyarrow/include/.*",
)
# Files that differ between installations of the same lock, or are about this machine: scripts name its interpreter.
_OF_THE_INSTALLATION = (
    r"bin/.*",
    r"\.lock",
    r"[^/]+\.dist-info/(INSTALLER|REQUESTED|RECORD|direct_url\.json|uv_cache\.json|uv_build\.json)",
)
_DROPPED = (*_NEEDLESS, *_OF_THE_INSTALLATION)
_DROPPED_PATTERN = re.compile("|".join(f"(?:{pattern})" for pattern in _DROPPED))
# The minimum size for a separate layer: compressed, about a second of upload.
_HEAVY_BYTES = 10 * 10**6
# Registries and container runtimes handle layers one by one, so there should be few.
_MAX_GROUPS = 6
# Written by old setuptools; no package relies on it.
_HARMLESS_PTH = {"distutils-precedence.pth"}


def make_package_recipes(
    lock: Lock, compression: Compression, cache: Path, note: Note, programs: Collection[str] = ()
) -> list[Recipe]:
    """Returns the layers with the lock's packages; each is installed (in `cache`) only if it has to be built.

    `programs` are packages that contain a binary (not a script) with the same name, which is kept.

    Python's compiled files are included (a container cannot write them, and starts in half the time with them) if a
    Python with the same minor version is installed here; a note is printed otherwise.
    """
    interpreter = find_interpreter(lock.python_version)
    if not interpreter:
        note(f"Python {lock.python_version} is not installed here, so packages are not compiled; tasks start slower")
    groups = [_Group(name, lock.only(packages), programs) for name, packages in make_groups(lock.packages)]
    lists = {group.name: cache / "file-lists" / f"{group.key(compression, compiled=False)}.json" for group in groups}
    check_code(lists.values())
    return [_make_recipe(group, compression, interpreter, cache, note, lists) for group in groups]


def make_groups(packages: Sequence[LockedPackage]) -> list[tuple[str, list[LockedPackage]]]:
    """Returns a group for each of the heaviest packages and one for the rest, so a changed pin uploads little. Pure."""
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

    @property
    def pins(self) -> str:
        """Returns a requirements file without packages required by a URL, which can carry credentials."""
        return "".join(f"{one.text}\n" for one in self.lock.packages if one.version)

    def about(self, key: str) -> str:
        """Returns 'tensorflow-cpu 2.21.0' or '41 packages, locked 2f3a…'; never a URL, which can carry credentials."""
        packages = self.lock.packages
        if len(packages) > 1:
            return f"{len(packages)} packages, locked {key[:12]}"
        return f"{packages[0].name} {packages[0].version}".rstrip()

    def key(self, compression: Compression, *, compiled: bool) -> str:
        return make_layer_key(
            self.name,
            compression,
            packages=[[one.name, *one.hashes] for one in self.lock.packages],
            python=self.lock.python_version,
            platform=str(self.lock.platform),
            dropped=_DROPPED,
            pins=LOCKS,
            compiled=compiled,
            **({"programs": self.kept_programs} if self.kept_programs else {}),
        )


def _make_recipe(
    group: _Group,
    compression: Compression,
    interpreter: str | None,
    cache: Path,
    note: Note,
    lists: Mapping[str, Path],
) -> Recipe:
    count = len(group.lock.packages)
    title = group.name if count == 1 else f"{count} packages"
    compiled, plain = (group.key(compression, compiled=compiled) for compiled in (True, False))
    # The libraries are the same whether compiled or not.
    libraries = cache / "shared-libraries" / f"{plain}.json"

    @contextmanager
    def files() -> Iterator[Files]:
        work = cache / "work"
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="site-", dir=work) as directory:
            site = Path(directory).resolve()
            note(f"installing {title}")
            install(group.lock, site)
            save_code(read_file_lists(site), lists[group.name])
            check_code(lists.values())
            found = site_files(site, note, group.kept_programs)
            find_libraries(found, site).save(libraries)
            found[f"{LOCKS}/{group.name}.txt".lstrip("/")] = pins = site / ".pins"
            pins.write_text(group.pins)
            if interpreter:
                note(f"compiling {title}")
            yield {**found, **compiled_files(found, interpreter, cache)} if interpreter else found

    # A layer built elsewhere with compiled files can be used instead of one built here without them.
    key, others = (compiled, ()) if interpreter else (plain, (compiled,))
    return Recipe(group.name, key, files, others, keep_executable=True, libraries=libraries, about=group.about(plain))


def site_files(site: Path, note: Note, programs: Collection[str] = ()) -> dict[str, Path]:
    """Returns the files of an installation that go into the image, by their path there."""
    prefix = SITE.lstrip("/")
    kept = {f"bin/{program}" for program in programs}
    installed = files_below(site).items()
    found = {name: path for name, path in installed if name in kept or not _DROPPED_PATTERN.fullmatch(name)}
    ignored = sorted(name for name in found if name.endswith(".pth") and name not in _HARMLESS_PTH and "/" not in name)
    if ignored:
        note(f"{', '.join(ignored)} will not take effect in the image; most packages do not need .pth files")
    return {f"{prefix}/{name}": path for name, path in found.items()}

"""The layers that hold the packages: which they are, and what of an installation goes into them.

One layer holds them all so far; callers take a list, because heavy packages may get layers of their own.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.layer import Compression, Files, Recipe, files_below, make_layer_key
from mlflow_fargate.image.layout import SITE
from mlflow_fargate.image.packages import Lock, find_interpreter, install

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
# Old setuptools' own, which no package relies on.
_HARMLESS_PTH = {"distutils-precedence.pth"}


def make_dependency_recipes(
    lock: Lock, compression: Compression, *, bytecode: bool, work: Path, note: Note
) -> list[Recipe]:
    """The layers with the packages of the lock, installed below `work` only if they have to be made.

    With `bytecode`, Python's compiled files go along (a container cannot write them, and starts in half the time with
    them) if there is a Python of the same minor version here; `note` hears if not.
    """
    interpreter = find_interpreter(lock.python_version) if bytecode else None
    if bytecode and not interpreter:
        note(f"there is no Python {lock.python_version} here to compile packages with, so the model will start slower")

    def key(compiled: bool) -> str:
        return make_layer_key(
            "dependencies",
            compression,
            lock=lock.text,
            python=lock.python_version,
            platform=str(lock.platform),
            dropped=_DROPPED,
            compiled=compiled,
        )

    @contextmanager
    def files() -> Iterator[Files]:
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="site-", dir=work) as directory:
            site = Path(directory).resolve()
            note(f"installing {len(lock.packages)} packages")
            install(lock, site)
            if interpreter:
                compile_site(site, interpreter)
            yield site_files(site, note)

    # A layer with compiled files made elsewhere is as good as one without them made here.
    others = () if interpreter else (key(True),)
    return [Recipe("dependencies", key(bool(interpreter)), files, other_keys=others, keep_executable=True)]


def compile_site(site: Path, interpreter: str) -> None:
    """Write the `__pycache__` files of all modules below `site`, the same bytes wherever `site` lies.

    Files that do not compile (templates, code for other Pythons) are passed over, as pip does.
    """
    # unchecked-hash: no times inside, and none to compare with the layer's fixed ones. -s/-p: tracebacks and
    # `__file__` name the place in the image. uv's own --compile-bytecode would write the place here.
    options = ["--invalidation-mode", "unchecked-hash", "-s", str(site), "-p", SITE, "-j", "0", "-qq"]
    skipped = rf"^{re.escape(str(site))}/(?:{'|'.join(_NEEDLESS)})$"
    command = [interpreter, "-I", "-m", "compileall", *options, "-x", skipped, str(site)]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if result.returncode not in {0, 1}:  # 1: some file did not compile
        raise ImageError(f"{interpreter} could not compile the packages:\n{result.stderr.strip()}")


def site_files(site: Path, note: Note) -> Files:
    """The files of an installation that go into the image, by their path there."""
    prefix = SITE.lstrip("/")
    found = {name: path for name, path in files_below(site).items() if not _DROPPED_PATTERN.fullmatch(name)}
    ignored = sorted(name for name in found if name.endswith(".pth") and name not in _HARMLESS_PTH and "/" not in name)
    if ignored:
        note(f"Python does not read {', '.join(ignored)} from where packages are in the image; most need not")
    return {f"{prefix}/{name}": path for name, path in found.items()}

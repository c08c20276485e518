"""The bytecode of a base's standard library as a layer.

Docker's Python images contain none, and a task's root file system is read-only: every process would compile what it
imports again, for about a second of CPU time.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mlflow_fargate.image.base.base_image import Base
from mlflow_fargate.image.base.files import BaseFiles, read_layers
from mlflow_fargate.image.layers.layer import Compression, Files, Recipe, make_layer_key
from mlflow_fargate.image.layers.members import Stack
from mlflow_fargate.image.packages.bytecode import compiled_files
from mlflow_fargate.image.packages.uv import find_interpreter, make_python_minor

NAME = "standard-library"
_ROOT = "usr/local/lib/python{minor}"
# What a service never imports, and packages that a base adds.
_LEFT_OUT = "test|tests|idlelib|tkinter|turtledemo|lib2to3|ensurepip|(site|dist)-packages"
# Python's own has 20 MB, and no file of 1 MB.
_MAX_FILE_BYTES, _MAX_BYTES = 2 << 20, 64 << 20
_BLOCK_BYTES = 4096  # what an empty file counts for


def make_standard_library_recipe(base: Base, python_version: str, compression: Compression, cache: Path) -> Recipe:
    """Returns the layer for this base; building it requires a Python of that version on this machine."""
    minor = make_python_minor(python_version)

    @contextmanager
    def files() -> Iterator[Files]:
        work = cache / "work"
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="standard-library-", dir=work) as folder:
            interpreter = find_interpreter(minor)
            assert interpreter  # noqa: S101  # checked before the layer is chosen
            yield compiled_files(_read_sources(base, minor, Path(folder)), interpreter, cache)

    key = make_layer_key(NAME, compression, base=base.image.manifest_digest, python=minor, left_out=_LEFT_OUT)
    return Recipe(NAME, key, files, about=f"bytecode of Python {minor}'s standard library")


def is_uncompiled(files: BaseFiles, python_version: str) -> bool:
    """Returns whether the base has a standard library without bytecode where Docker's Python images have it."""
    found = [name for name in files.standard_libraries if name.startswith(f"{_root(python_version)}/")]
    return bool(found) and not any("__pycache__" in name for name in found)


def _read_sources(base: Base, minor: str, into: Path) -> dict[str, Path]:
    """Returns the library's Python files, written to `into`, by path in the image."""
    pattern = re.compile(rf"{re.escape(_root(minor))}/(?!({_LEFT_OUT})/)([\w-]+/)*[\w-]+\.py")
    stack: Stack[Path] = Stack(_MAX_BYTES, lambda path: max(path.stat().st_size, _BLOCK_BYTES))

    def keep(name: str, member: tarfile.TarInfo, content: Callable[[], IO[bytes]]) -> Path | None:
        if not (member.isfile() and member.size <= _MAX_FILE_BYTES and pattern.fullmatch(name)):
            return None
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content().read())
        return path

    return read_layers(base, stack, keep)


def _root(python_version: str) -> str:
    return _ROOT.format(minor=make_python_minor(python_version))

"""Compiles Python files for an image, each once on this machine, regardless of lock and model.

    {cache}/bytecode/AB/CDEF….pyc     named by the source's bytes, its path in the image and the interpreter

Named by content, not by wheel: wheels of one installation can overwrite each other's files.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.oci.image import encode_json, sha256_digest

_PROGRAM = Path(__file__).with_name("compile_files.py")
_UNUSED_SECONDS = 30 * 24 * 3600
_TAG = "import sys, importlib.util as u; print(sys.implementation.cache_tag, u.MAGIC_NUMBER.hex())"


def compiled_files(files: Mapping[str, Path], interpreter: str, cache: Path) -> dict[str, Path]:
    """Returns compiled files for the Python files in `files`, by path in the image; skips what does not compile."""
    tag, magic = _identify(interpreter)
    wanted: dict[str, tuple[Path, Path, str]] = {}
    for name, path in files.items():
        if name.endswith(".py"):
            place = PurePosixPath(name)
            key = sha256_digest(encode_json([name, magic, hashlib.sha256(path.read_bytes()).hexdigest()]))[7:]
            compiled = cache / "bytecode" / key[:2] / f"{key[2:]}.pyc"
            wanted[f"{place.parent}/__pycache__/{place.stem}.{tag}.pyc"] = (path, compiled, f"/{name}")
    _compile([task for task in wanted.values() if not task[1].exists()], interpreter)
    found = {name: compiled for name, (_, compiled, _) in wanted.items() if compiled.exists()}
    _trim(cache / "bytecode", found)
    return found


def _identify(interpreter: str) -> tuple[str, str]:
    run = subprocess.run([interpreter, "-I", "-c", _TAG], capture_output=True, text=True, check=False)
    if run.returncode:
        raise ImageError(f"{interpreter} does not run: {run.stderr.strip()}")
    tag, magic = run.stdout.split()
    return tag, magic


def _compile(tasks: list[tuple[Path, Path, str]], interpreter: str) -> None:
    if not tasks:
        return
    text = json.dumps([[str(source), str(compiled), place] for source, compiled, place in tasks])
    command = [interpreter, "-I", "-W", "ignore", str(_PROGRAM)]
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ImageError(f"{interpreter} could not compile the packages:\n{result.stderr.strip()}")


def _trim(directory: Path, used: Mapping[str, Path]) -> None:
    """Deletes what no image has used for a month."""
    for path in used.values():
        os.utime(path)
    with suppress(FileNotFoundError):  # another process may be trimming as well
        for path in directory.glob("*/*.pyc"):
            if time.time() - path.stat().st_mtime > _UNUSED_SECONDS:
                path.unlink()

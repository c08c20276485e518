"""The container engine that tests use, and an image of this machine's Python that it can run."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_fargate.local.container.container_engine import ContainerEngine, EngineFailed, find_engine

Programs = Callable[..., None]

_SKIPPED = {"test", "idlelib", "tkinter", "ensurepip", "site-packages", "__pycache__", "turtledemo", "lib2to3"}


@pytest.fixture(scope="session")
def container_engine() -> ContainerEngine:
    """Returns podman, or else docker; skips the test where neither runs a container."""
    said = []
    for name in ("podman", "docker"):
        try:
            return find_engine(name)
        except EngineFailed as error:
            said.append(f"{name}: {error}")
    pytest.skip(f"no container engine works here ({'; '.join(said)})")


@pytest.fixture(scope="module")
def python_image(push_image: Callable[..., str]) -> str:
    """Returns an image with this machine's Python and a shell, which runs nothing by itself."""
    return push_image(tars=(python_layer(),), compression="zstd", Entrypoint=["python3"], WorkingDir="/", Env=[])


def python_layer() -> bytes:
    """Returns a tar of this machine's Python below /usr/local, a shell, and the libraries that both need."""
    minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    standard_library = Path(os.path.realpath(sys.base_prefix)) / "lib" / minor
    files = {"usr/local/bin/python3": Path(sys.executable).resolve(), "bin/sh": Path("/bin/sh").resolve()}
    for folder, folders, names in os.walk(standard_library):
        folders[:] = [name for name in folders if name not in _SKIPPED and not name.startswith("config-")]
        below = Path(folder).relative_to(standard_library)
        files |= {f"usr/local/lib/{minor}/{below / name}": Path(folder, name) for name in names}
    binaries = [path for name, path in files.items() if name.endswith((".so", "/python3", "/sh"))]
    said = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    files |= {library.lstrip("/"): Path(library).resolve() for library in re.findall(r"(/\S+) \(0x", said)}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", dereference=True) as archive:
        for name, path in sorted(files.items()):
            archive.add(path, name, recursive=False)
        folder_of_all = tarfile.TarInfo("tmp")
        folder_of_all.type, folder_of_all.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(folder_of_all)
    return packed.getvalue()

"""Packages without wheels: built if this machine matches the image and building is allowed, else reported."""

from __future__ import annotations

import io
import platform
import sys
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image import LINUX_AMD64, LINUX_ARM64, Indexes, Reference, Registry
from mlflow_fargate.image.packages.uv import install, lock
from mlflow_fargate.progress import RecordedProgress
from support.image import make_image
from tests.image.conftest import push_base

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
HERE, ELSEWHERE = (LINUX_AMD64, LINUX_ARM64) if platform.machine() == "x86_64" else (LINUX_ARM64, LINUX_AMD64)
SETUP = """
import os
from setuptools import setup

open("mini.py", "w").write(f"SEEN = {sorted(os.environ)}")
setup(name="mini", version="1.0", py_modules=["mini"])
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="images are for Linux, and so are built packages"),
]

MakeIndex = Callable[[str], Indexes]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@pytest.fixture
def make_index(tmp_path: Path) -> Iterator[MakeIndex]:
    """Adds an index before PyPI with one package, `mini`, as a source distribution with that setup.py."""
    folder = tmp_path / "index"
    (folder / "simple" / "mini").mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever)
    thread.start()

    def make(setup: str) -> Indexes:
        (folder / "simple" / "mini" / "index.html").write_text('<a href="../../mini-1.0.tar.gz">mini-1.0.tar.gz</a>')
        (folder / "mini-1.0.tar.gz").write_bytes(make_sdist({"setup.py": setup, "PKG-INFO": "Name: mini\n"}))
        return Indexes(None, (f"http://127.0.0.1:{server.server_port}/simple",))

    yield make
    server.shutdown()
    server.server_close()
    thread.join()


def make_sdist(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"mini-1.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def test_a_package_without_wheels_is_built_and_sees_no_secrets(
    make_index: MakeIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    (tmp_path / "site").mkdir()

    locked = lock(
        ["mini", "six==1.17.0"],
        python_version=MINOR,
        platform=HERE,
        cache=tmp_path,
        indexes=make_index(SETUP),
        build_sdists=True,
    )
    install(locked, tmp_path / "site")

    assert locked.sdists == ("mini",)
    found: dict[str, Any] = {}
    exec((tmp_path / "site" / "mini.py").read_text(), found)
    assert "PATH" in found["SEEN"]
    assert not [name for name in found["SEEN"] if name.startswith(("AWS_", "MLFLOW_"))]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"platform": HERE, "python_version": MINOR, "build_sdists": False}, "build_sdists=false"),
        ({"platform": ELSEWHERE, "python_version": MINOR, "build_sdists": True}, f"the image is for {ELSEWHERE}"),
        ({"platform": HERE, "python_version": "3.99", "build_sdists": True}, "Python 3.99 is not installed here"),
    ],
)
def test_a_package_that_cannot_be_built_is_reported_with_a_hint(
    make_index: MakeIndex, tmp_path: Path, arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ImageError) as caught:
        lock(["mini", "six==1.17.0"], cache=tmp_path, indexes=make_index(SETUP), **arguments)

    python = arguments["python_version"]
    assert f"No wheel for mini (Python {python}, {arguments['platform']})" in str(caught.value)
    assert reason in str(caught.value)
    assert f"from {arguments['platform']} with Python {python}" in str(caught.value.hint)


def test_a_lock_with_built_packages_is_refused_if_building_is_not_allowed(
    make_index: MakeIndex, tmp_path: Path
) -> None:
    again = partial(lock, ["mini"], python_version=MINOR, platform=HERE, cache=tmp_path, indexes=make_index(SETUP))
    again(build_sdists=True)

    with pytest.raises(ImageError, match=r"No wheel for mini .* none can be built here: build_sdists=false"):
        again(build_sdists=False)


def test_a_failed_build_shows_its_output(make_index: MakeIndex, tmp_path: Path) -> None:
    indexes = make_index("raise SystemExit('the Fortran compiler is missing')")

    with pytest.raises(
        ImageError, match=r"(?s)No wheel for mini, and building one failed.*Fortran compiler is missing"
    ):
        lock(["mini"], python_version=MINOR, platform=HERE, cache=tmp_path, indexes=indexes, build_sdists=True)


def test_a_package_with_neither_wheel_nor_source_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"(?s)No wheel for pywin32 .* built here: output of uv:.*pywin32"):
        lock(["pywin32==306"], python_version=MINOR, platform=HERE, cache=tmp_path, build_sdists=True)


def test_the_layer_of_a_built_package_has_the_same_key_on_every_machine_and_no_record(
    registry: Registry, base: Reference, make_index: MakeIndex, tmp_path: Path
) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "service.py").write_text("Service = None\n")
    indexes, progress = make_index(SETUP), RecordedProgress()
    keys = []
    for machine in ("one", "two"):
        image = make_image(
            base=base,
            requirements=["mini"],
            python_version=MINOR,
            service=tmp_path / "service",
            model={},
            model_key="none",
            destination=Reference(registry.host, f"models/{machine}", "v1"),
            registry=registry,
            cache=tmp_path / machine,
            platform=HERE,
            indexes=indexes,
            build_sdists=True,
            progress=progress,
        )
        repository = image.reference.repository
        manifest = registry.read_manifest(repository, image.reference.identifier, HERE).manifest
        keys.append([layer.key for layer in manifest.own_layers().values()])

    assert keys[0] == keys[1]
    assert "built from source on this machine, because they have no wheels: mini" in progress.lines
    assert "kept" not in " ".join(progress.lines)


@pytest.fixture
def host(local_registry: str) -> str:
    """One registry is enough here."""
    return local_registry


@pytest.fixture
def base(registry: Registry) -> Reference:
    """A base image for this machine's platform."""
    return push_base(registry, "library/python", "3-slim", architecture=HERE.architecture)

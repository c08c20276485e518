"""Packages without wheels: built where this machine is like the image and may, else named."""

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

open("ours.py", "w").write(f"SEEN = {sorted(os.environ)}")
setup(name="ours", version="1.0", py_modules=["ours"])
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="images are for Linux, and so are built packages"),
]

MakeIndex = Callable[[str], Indexes]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def make_index(tmp_path: Path) -> Iterator[MakeIndex]:
    """Puts an index before PyPI that has one package, `ours`, as a source distribution with that setup.py."""
    folder = tmp_path / "index"
    (folder / "simple" / "ours").mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever)
    thread.start()

    def make(setup: str) -> Indexes:
        (folder / "simple" / "ours" / "index.html").write_text('<a href="../../ours-1.0.tar.gz">ours-1.0.tar.gz</a>')
        (folder / "ours-1.0.tar.gz").write_bytes(make_sdist({"setup.py": setup, "PKG-INFO": "Name: ours\n"}))
        return Indexes(None, (f"http://127.0.0.1:{server.server_port}/simple",))

    yield make
    server.shutdown()
    server.server_close()
    thread.join()


def make_sdist(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"ours-1.0/{name}")
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
        ["ours", "six==1.17.0"],
        python_version=MINOR,
        platform=HERE,
        cache=tmp_path,
        indexes=make_index(SETUP),
        build_sdists=True,
    )
    install(locked, tmp_path / "site")

    assert locked.sdists == ("ours",)
    found: dict[str, Any] = {}
    exec((tmp_path / "site" / "ours.py").read_text(), found)
    assert "PATH" in found["SEEN"]
    assert not [name for name in found["SEEN"] if name.startswith(("AWS_", "MLFLOW_"))]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"platform": HERE, "python_version": MINOR, "build_sdists": False}, "build_sdists=false"),
        ({"platform": ELSEWHERE, "python_version": MINOR, "build_sdists": True}, f"the image is for {ELSEWHERE}"),
        ({"platform": HERE, "python_version": "3.99", "build_sdists": True}, "there is no Python 3.99 here"),
    ],
)
def test_where_it_cannot_be_built_it_is_named_with_the_way_out(
    make_index: MakeIndex, tmp_path: Path, arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ImageError) as caught:
        lock(["ours", "six==1.17.0"], cache=tmp_path, indexes=make_index(SETUP), **arguments)

    python = arguments["python_version"]
    assert f"no wheel of ours for Python {python} on {arguments['platform']}" in str(caught.value)
    assert reason in str(caught.value)
    assert f"from {arguments['platform']} with Python {python}" in str(caught.value.hint)


def test_a_lock_made_while_building_was_allowed_is_refused_when_it_is_not(
    make_index: MakeIndex, tmp_path: Path
) -> None:
    again = partial(lock, ["ours"], python_version=MINOR, platform=HERE, cache=tmp_path, indexes=make_index(SETUP))
    again(build_sdists=True)

    with pytest.raises(ImageError, match=r"no wheel of ours .* none is built: build_sdists=false"):
        again(build_sdists=False)


def test_what_does_not_build_says_why(make_index: MakeIndex, tmp_path: Path) -> None:
    indexes = make_index("raise SystemExit('the Fortran compiler is missing')")

    with pytest.raises(ImageError, match=r"(?s)no wheel of ours, and building failed.*the Fortran compiler is missing"):
        lock(["ours"], python_version=MINOR, platform=HERE, cache=tmp_path, indexes=indexes, build_sdists=True)


def test_a_package_with_neither_wheel_nor_source_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"(?s)no wheel of pywin32 for .* none is built: uv says:.*pywin32"):
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
            requirements=["ours"],
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
    assert "built on this machine, as there are no wheels: ours" in progress.lines
    assert "kept" not in " ".join(progress.lines)


@pytest.fixture
def host(local_registry: str) -> str:
    """Which registry it is makes no difference here."""
    return local_registry


@pytest.fixture
def base(registry: Registry) -> Reference:
    """For this machine's platform."""
    return push_base(registry, "library/python", "3-slim", architecture=HERE.architecture)

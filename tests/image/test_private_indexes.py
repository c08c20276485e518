"""Private indexes: a real one on this machine with a password, which must not appear anywhere in the results."""

from __future__ import annotations

import base64
import io
import sys
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image import Indexes, Reference, Registry
from mlflow_fargate.image.oci.platforms import LINUX_AMD64
from mlflow_fargate.image.packages.requirements import normalize
from mlflow_fargate.image.packages.uv import lock
from mlflow_fargate.progress import RecordedProgress
from support.image import make_image

pytestmark = pytest.mark.slow

USER, PASSWORD = "reader", "hunter2-swordfish"
WHEEL = "ours-1.0-py3-none-any.whl"


class IndexHandler(SimpleHTTPRequestHandler):
    """Serves files to clients with the password."""

    def do_GET(self) -> None:
        expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") == f"Basic {expected}":
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="index"')
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@pytest.fixture
def host(local_registry: str) -> str:
    """One registry is enough here."""
    return local_registry


@pytest.fixture
def private_index(tmp_path: Path) -> Iterator[str]:
    """HOST:PORT of an index with one package, 'ours', as specified in PEP 503."""
    root = tmp_path / "index"
    (root / "simple" / "ours").mkdir(parents=True)
    (root / "simple" / "ours" / "index.html").write_text(f'<a href="../../{WHEEL}">{WHEEL}</a>')
    (root / WHEEL).write_bytes(make_wheel())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(IndexHandler, directory=str(root)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def inputs(registry: Registry, base: Reference, tmp_path: Path) -> dict[str, Any]:
    service = tmp_path / "service"
    service.mkdir()
    (service / "service.py").write_text("Service = None\n")
    return {
        "base": base,
        "python_version": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "service": service,
        "model": {},
        "model_key": "none",
        "destination": Reference(registry.host, "models", "v1"),
        "registry": registry,
        "cache": tmp_path / "cache",
        "progress": RecordedProgress(),
    }


def make_wheel() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as wheel:
        wheel.writestr("ours.py", "SECRET_SAUCE = 1\n")
        wheel.writestr("ours-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
        tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr("ours-1.0.dist-info/WHEEL", tag)
        wheel.writestr("ours-1.0.dist-info/RECORD", "ours.py,,\n")
    return packed.getvalue()


def files_with(secret: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def unpacked(registry: Registry, image: Reference) -> bytes:
    """Returns every byte of the image."""
    import zstandard

    found = registry.read_manifest(image.repository, image.identifier, LINUX_AMD64).manifest
    blobs = [b"".join(registry.stream_blob(image.repository, blob)) for blob in found.blobs]
    plain = [
        zstandard.ZstdDecompressor().decompressobj().decompress(blob) if blob[:4] == b"\x28\xb5\x2f\xfd" else blob
        for blob in blobs
    ]
    return b"".join([found.as_bytes(), *plain])


@pytest.mark.parametrize("how", ["extra index", "index in the environment", "url of a wheel", "page of links"])
def test_a_password_reaches_neither_image_nor_lock_nor_progress(
    how: str, private_index: str, inputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("INDEX_PASSWORD", PASSWORD)
    written_out = f"http://{USER}:{PASSWORD}@{private_index}"
    asked = {
        "extra index": (["ours", "six"], Indexes(extra_urls=(f"{written_out}/simple",))),
        "index in the environment": (["ours"], Indexes(f"http://{USER}:${{INDEX_PASSWORD}}@{private_index}/simple")),
        "page of links": (["ours"], Indexes(find_links=(f"{written_out}/simple/ours/index.html",))),
        "url of a wheel": ([f"ours @ {written_out}/{WHEEL}"], Indexes()),
    }
    requirements, indexes = asked[how]

    image = make_image(**inputs, requirements=requirements, indexes=indexes).reference

    packed = unpacked(inputs["registry"], image)
    assert b"SECRET_SAUCE" in packed
    for secret in (PASSWORD, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()):
        assert secret.encode() not in packed
        assert files_with(secret, tmp_path / "cache") == []
        assert files_with(secret, tmp_path / "uv") == []
        assert secret not in "\n".join(inputs["progress"].lines)
    assert PASSWORD not in repr(indexes)


def test_a_changed_password_does_not_change_the_lock(private_index: str, tmp_path: Path) -> None:
    def locked_with(password: str) -> Any:
        indexes = Indexes(extra_urls=(f"http://{USER}:{password}@{private_index}/simple",))
        return lock(["ours"], python_version="3.11", platform=LINUX_AMD64, cache=tmp_path, indexes=indexes)

    assert locked_with(PASSWORD).packages == locked_with("another").packages
    assert len(list((tmp_path / "locks").iterdir())) == 1


def test_the_error_for_a_wrong_password_says_where_to_set_it(private_index: str, tmp_path: Path) -> None:
    indexes = Indexes(f"http://{USER}:wrong-one@{private_index}/simple")

    with pytest.raises(ImageError, match=r"(?s)rejected the credentials.*hint: .*\$\{PASSWORD\}") as caught:
        lock(["ours"], python_version="3.11", platform=LINUX_AMD64, cache=tmp_path, indexes=indexes)
    assert "wrong-one" not in str(caught.value)


@pytest.mark.parametrize(
    "line", ["--index-url https://${AWS_SECRET_ACCESS_KEY}.example.org/", "six @ https://example.org/${HOME}/six.whl"]
)
def test_a_model_cannot_send_the_environment_anywhere(line: str) -> None:
    with pytest.raises(ImageError, match="refers to an environment variable"):
        normalize([line], machine="x86_64")

"""Fixtures: registries on this machine and a small base image in them."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import stamina

from mlflow_fargate.image.oci.image import (
    OCI_CONFIG,
    Descriptor,
    Manifest,
    encode_json,
    sha256_digest,
)
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.registry.client import Registry
from mlflow_fargate.local.registry.server import LocalRegistry

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_DISTRIBUTION_CONFIG = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {root}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Retries happen immediately, at most three times."""
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


@pytest.fixture
def local_registry(tmp_path: Path) -> Iterator[str]:
    with LocalRegistry(tmp_path / "local-registry", password=None) as server:
        yield server.address


@pytest.fixture
def distribution(tmp_path: Path) -> Iterator[str]:
    """CNCF distribution, the reference implementation."""
    with run_distribution(tmp_path) as address:
        yield address


@contextmanager
def run_distribution(folder: Path, *, auth: str = "") -> Iterator[str]:
    """CNCF distribution with its files in `folder`; `auth` is the authentication part of its configuration."""
    if not shutil.which("docker-registry"):
        pytest.skip("docker-registry is not installed (apt-get install docker-registry)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "distribution.yml"
    config.write_text(_DISTRIBUTION_CONFIG.format(root=folder / "distribution", port=port) + auth)
    process = subprocess.Popen(["docker-registry", "serve", str(config)], stderr=subprocess.DEVNULL)
    try:
        _wait_for_port(port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(params=["local_registry", "distribution"])
def host(request: pytest.FixtureRequest) -> str:
    """A registry's host and port: the local stack's, then the reference implementation."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def registry(host: str) -> Iterator[Registry]:
    with Registry(host) as client:
        yield client


@pytest.fixture
def base(registry: Registry) -> Reference:
    """`library/python:3-slim` with this Python's minor version: gzip layers of Docker's media type."""
    return push_base(registry, "library/python", "3-slim")


@pytest.fixture
def make_base(registry: Registry) -> Callable[..., Reference]:
    """Pushes a base image: `make_base(REPOSITORY, TAG, files=[{path: content}, …])`, one mapping per layer."""
    return partial(push_base, registry)


def push_base(
    registry: Registry,
    repository: str,
    tag: str,
    *,
    files: Sequence[Mapping[str, str | bytes]] = ({"etc/one": "one"}, {"etc/two": "two"}),
    architecture: str = "amd64",
    python_version: str | None = f"{MINOR}.9",
) -> Reference:
    """Pushes a base image with these layers (path → content)."""
    layers = [gzip.compress(make_tar(layer), mtime=0) for layer in files]
    history = [", ".join(layer) for layer in files]
    return push_layers(
        registry,
        Reference(registry.host, repository, tag),
        layers,
        history=history,
        architecture=architecture,
        python_version=python_version,
    )


def push_layers(
    registry: Registry,
    reference: Reference,
    layers: Sequence[bytes],
    *,
    history: Sequence[str],
    architecture: str = "amd64",
    python_version: str | None = None,
    environment: Sequence[str] = ("PATH=/usr/local/bin:/usr/bin",),
    media_type: str = DOCKER_LAYER,
) -> Reference:
    """Pushes a base image with these layers, gzipped tars."""
    config = encode_json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Env": [*environment, *([f"PYTHON_VERSION={python_version}"] if python_version else [])],
                "Cmd": ["python3"],
                "Labels": {"from": "base", "org.opencontainers.image.url": "https://example.com/base"},
            },
            "rootfs": {"type": "layers", "diff_ids": [sha256_digest(gzip.decompress(layer)) for layer in layers]},
            "history": [{"created_by": "ENV", "empty_layer": True}, *({"created_by": line} for line in history)],
        }
    )
    for blob in (*layers, config):
        registry.upload_blob(reference.repository, sha256_digest(blob), lambda blob=blob: [blob])  # type: ignore[misc]
    descriptors = tuple(Descriptor(media_type, sha256_digest(layer), len(layer)) for layer in layers)
    manifest = Manifest(Descriptor(OCI_CONFIG, sha256_digest(config), len(config)), descriptors)
    registry.write_manifest(reference.repository, str(reference.tag), manifest)
    return reference


def make_tar(files: Mapping[str, str | bytes], mode: int = 0o644) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in files.items():
            content = text.encode() if isinstance(text, str) else text
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = mode
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@pytest.fixture(scope="session")
def debian_archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Debian 12 with its own Python 3.11, as a gzipped tar."""
    if not shutil.which("debootstrap") or os.geteuid() != 0:
        pytest.skip("debootstrap is not installed (apt-get install debootstrap), or the user is not root")
    root = tmp_path_factory.mktemp("debian") / "root"
    command = ["debootstrap", "--variant=minbase", "--include=python3", "bookworm", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    left_out = ("./dev/*", "./var/cache/apt/*", "./var/lib/apt/lists/*")
    tar = ["tar", "-C", str(root), *(f"--exclude={path}" for path in left_out), "-cz", "."]
    return subprocess.run(tar, capture_output=True, check=True).stdout


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing responds on port {port}")


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answer = tuple[int, dict[str, str], bytes]


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Does nothing: in some tests the client disconnects on purpose."""


class ScriptedServer:
    """An HTTP server with scripted responses for each method and path; the last one is repeated."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._answers: dict[tuple[str, str], list[Answer]] = {}
        self._server = _QuietServer(("127.0.0.1", 0), self._make_handler())
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def answers(self, method: str, path: str, *answers: Answer) -> None:
        self._answers[method, path] = list(answers)

    def seen(self, method: str) -> list[Request]:
        return [request for request in self.requests if request.method == method]

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        request = Request(handler.command, handler.path, dict(handler.headers), _read_body(handler))
        self.requests.append(request)
        script = self._answers.get((handler.command, path), [(404, {}, b"")])
        status, headers, body = script.pop(0) if len(script) > 1 else script[0]
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                answer(self)

            do_HEAD = do_POST = do_PATCH = do_PUT = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Logs nothing."""

        return Handler


def _read_body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    body = b""
    while size := int(handler.rfile.readline(), 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.stop()

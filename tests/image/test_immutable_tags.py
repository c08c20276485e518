"""A registry with immutable tags that, like ECR, also refuses the manifest that it already has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mlflow_fargate.errors import RegistryError
from mlflow_fargate.image.oci.image import Descriptor, Manifest, sha256_digest
from mlflow_fargate.image.registry.client import Registry

REFUSAL = b'{"errors": [{"code": "TAG_INVALID", "message": "The image tag already exists and is immutable"}]}'


@dataclass
class Ecr:
    """Keeps manifests by tag; loses the answer to the first `lost` pushes."""

    lost: int = 0
    tags: dict[str, bytes] = field(default_factory=dict)
    pushes: int = 0
    address: str = ""


@pytest.fixture
def ecr() -> Iterator[Ecr]:
    kept = Ecr()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.pushes += 1
            is_new = kept.tags.setdefault(self.path, body) is body
            if kept.pushes <= kept.lost:
                self.close_connection = True
                return
            self.respond(201 if is_new else 400, b"" if is_new else REFUSAL)

        def do_HEAD(self) -> None:
            body = kept.tags.get(self.path)
            self.respond(200 if body else 404, b"", sha256_digest(body or b""))

        def respond(self, status: int, body: bytes, digest: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", digest)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kept.address = f"127.0.0.1:{server.server_port}"
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()


def manifest(text: bytes = b"{}") -> Manifest:
    config = Descriptor("application/vnd.oci.image.config.v1+json", sha256_digest(text), len(text))
    return Manifest(config=config, layers=())


def push(ecr: Ecr, what: Manifest) -> str:
    with Registry(ecr.address) as registry:
        return registry.write_manifest("app", "churn.1", what)


def test_a_push_whose_answer_was_lost_succeeds(ecr: Ecr) -> None:
    ecr.lost = 1

    assert push(ecr, manifest()) == manifest().digest
    assert ecr.pushes == 2


def test_the_second_of_two_builders_of_one_image_succeeds(ecr: Ecr) -> None:
    assert push(ecr, manifest()) == push(ecr, manifest())


def test_another_image_does_not_take_over_the_tag(ecr: Ecr) -> None:
    push(ecr, manifest())

    with pytest.raises(RegistryError, match=r"pushed a different image as app:churn\.1 .* immutable") as raised:
        push(ecr, manifest(b"{ }"))
    assert "it uses that image" in str(raised.value.hint)
    assert ecr.pushes == 2  # a repetition would fail as well
    assert list(ecr.tags.values()) == [manifest().as_bytes()]

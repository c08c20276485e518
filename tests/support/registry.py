"""A registry on disk with tiny images of a minimal model server, for the local stack to run."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard

from mlflow_fargate.local.registry.server import LocalRegistry

PushImage = Callable[..., str]

HOST_PYTHON = {"mlflow-fargate.base": "host-python"}
# A minimal model server: reports its version and is ready immediately; MODE changes that.
SERVER = """
import http.server, json, os, pathlib, sys, time
print("version", os.environ.get("VERSION"), "starts", flush=True)
if os.environ.get("MODE") == "crash":
    sys.exit("boom: the model cannot be loaded")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.endswith("/readyz"):
            self.answer(503 if os.environ.get("MODE") == "never" else 200, {})
        else:
            time.sleep(float(os.environ.get("SLOWNESS", 0)))
            self.answer(200, {"version": os.environ.get("VERSION"), "key": os.environ.get("API_KEY"),
                              "folder": str(pathlib.Path(__file__).parent), "environment": dict(os.environ)})
    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer((os.environ["BENTOML_HOST"], int(os.environ["BENTOML_PORT"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def registry_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def registry(registry_folder: Path) -> Iterator[LocalRegistry]:
    with LocalRegistry(registry_folder, password=None) as running:
        yield running


@pytest.fixture(scope="module")
def push_image(registry: LocalRegistry) -> PushImage:
    return pusher(registry)


def pusher(registry: LocalRegistry) -> PushImage:
    """Returns a function that pushes an image of files: `push_image({path: text}, …)` → its reference by digest."""

    def push(
        *layers: Mapping[str, str | None],
        repository: str = "models",
        labels: Mapping[str, str] = HOST_PYTHON,
        compression: str = "gzip",
        tars: tuple[bytes, ...] = (),
        annotated: tuple[int, ...] = (),
        **config: Any,
    ) -> str:
        archives = [*(make_tar(files) for files in layers), *tars]
        if not archives:
            archives = [make_tar({"opt/app/src/server.py": SERVER})]
        blobs = [compress(archive, compression) for archive in archives]
        settings = {
            "Env": [
                "PYTHONPATH=/opt/app/site:/opt/app/src",
                f"PYTHON_VERSION={platform.python_version()}",
                "HOME=/tmp",
            ],
            "Entrypoint": ["python3", "/opt/app/src/server.py"],
            "WorkingDir": "/opt/app/src",
            "Labels": dict(labels),
            **config,
        }
        diff_ids = [f"sha256:{hashlib.sha256(archive).hexdigest()}" for archive in archives]
        return push_to(registry, repository, blobs, settings, annotated, diff_ids)

    return push


def push_to(
    registry: LocalRegistry,
    repository: str,
    blobs: list[bytes],
    settings: dict[str, Any],
    annotated: tuple[int, ...],
    diff_ids: list[str],
) -> str:
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    config = {"architecture": "amd64", "os": "linux", "config": settings, "rootfs": rootfs}
    image_config = json.dumps(config).encode()
    registry.store.create_repository(repository)
    for blob in (image_config, *blobs):
        registry.store.add_blob(repository, blob)
    layers = [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", blob) for blob in blobs]
    for index in annotated:
        layers[index]["annotations"] = {"io.mlflow-fargate.layer.name": "code"}
    media_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": descriptor("application/vnd.oci.image.config.v1+json", image_config),
        "layers": layers,
    }
    digest = registry.store.put_manifest(repository, "latest", json.dumps(manifest).encode(), media_type)
    return f"{registry.address}/{repository}@{digest}"


def make_tar(files: Mapping[str, str | None]) -> bytes:
    """Returns a tar of the files; None creates a folder."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            if text is None:
                entry.type = tarfile.DIRTYPE
                entry.mode = 0o755
                archive.addfile(entry)
                continue
            content = text.encode()
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def compress(archive: bytes, compression: str) -> bytes:
    if compression == "zstd":
        return zstandard.compress(archive)
    return gzip.compress(archive, mtime=0) if compression == "gzip" else archive


def descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": media_type, "digest": digest, "size": len(content)}

"""Anyone can write to a model registry: no request follows its content to another server.

Registry and stranger are real servers: one answers MLflow's client with what an attacker wrote, the other records every
request that reaches it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import requests
from mlflow.exceptions import MlflowException

from mlflow_fargate.aws.s3 import S3Artifacts
from mlflow_fargate.errors import FargateError, ModelUnusable, UntrustedSource
from mlflow_fargate.model import ArtifactStores, download_model, resolve_model, tag_model_version
from mlflow_fargate.model.logged import model_uri_of, move_version
from mlflow_fargate.model.server import ask_server
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.resolved_model import ResolvedModel
from mlflow_fargate.webhook.control_loop.model_registry import MlflowModelRegistry

TOKEN, KEY = "token-of-the-deployer", "key-of-the-gateway"
SERVICE = "/api/2.0/mlflow-artifacts/artifacts"
MLMODEL = b"flavors: {python_function: {}}\nrun_id: abc\n"
RUN = "0123456789abcdef0123456789abcdef"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def served(handler: type[Handler]) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Stranger:
    """Another server; `seen` lists each request with its headers."""

    port: int = 0
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @property
    def place(self) -> str:
        return f"localhost:{self.port}"


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    found = Stranger()

    class Recording(Handler):
        def do_GET(self) -> None:
            found.seen.append((self.path, dict(self.headers)))
            self.answer(200, b'{"files": []}')

        do_POST = do_PUT = do_PATCH = do_HEAD = do_GET

    with served(Recording) as found.port:
        yield found


@dataclass
class Registry:
    """What an attacker wrote: the claimed locations, and the redirects."""

    port: int = 0
    source: str = "mlflow-artifacts:/1/m"
    run_root: str = "mlflow-artifacts:/1/run"
    model_location: str = "mlflow-artifacts:/1/m"
    files: dict[str, bytes] = field(default_factory=lambda: {"1/m/MLmodel": MLMODEL, "1/m/data/my weights#1": b"w"})
    redirects: dict[str, tuple[int, str]] = field(default_factory=dict)  # beginning of a path → status, location

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def listing(self, folder: str) -> dict[str, Any]:
        below = {path.removeprefix(f"{folder}/"): data for path, data in self.files.items() if path.startswith(folder)}
        files = [
            {"path": path, "is_dir": False, "file_size": len(data)} for path, data in below.items() if "/" not in path
        ]
        folders = sorted({path.partition("/")[0] for path in below if "/" in path})
        return {"files": files + [{"path": path, "is_dir": True} for path in folders]}

    def answer(self, path: str, query: dict[str, list[str]]) -> dict[str, Any] | bytes:
        if path == SERVICE:
            return self.listing(query["path"][0])
        if path.startswith(SERVICE):
            return self.files[unquote(path).removeprefix(f"{SERVICE}/")]
        if "/model-versions/get" in path:  # also get-download-uri
            version = {"name": "churn", "version": "1", "source": self.source, "status": "READY", "run_id": RUN}
            return {"model_version": {**version, "current_stage": "None"}, "artifact_uri": self.source}
        if path.endswith("/runs/get"):
            info = {"run_id": RUN, "experiment_id": "1", "status": "FINISHED", "lifecycle_stage": "active"}
            return {"run": {"info": {**info, "artifact_uri": self.run_root}, "data": {}, "inputs": {}, "outputs": {}}}
        if "/logged-models/" in path:
            info = {"model_id": "m-1", "experiment_id": "1", "name": "m", "artifact_uri": self.model_location}
            return {"model": {"info": {**info, "status": 2}, "data": {}}}
        return {}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    found = Registry()

    class Speaking(Handler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            for beginning, (status, location) in found.redirects.items():
                if parts.path.startswith(beginning):
                    self.answer(status, b"moved", Location=location)
                    return
            body = found.answer(parts.path, parse_qs(parts.query))
            self.answer(200, body if isinstance(body, bytes) else json.dumps(body).encode())

        do_POST = do_PATCH = do_GET

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(
        "mlflow.tracking.request_header.registry.resolve_request_headers", lambda: {"X-Gateway-Key": KEY}
    )
    with served(Speaking) as found.port:
        monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", found.uri)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", found.uri)
        monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
        yield found


def stores() -> ArtifactStores:
    def no_s3() -> S3Artifacts:
        raise AssertionError("nothing here is in S3")

    return ArtifactStores(s3=no_s3)


def resolve(uri: str = "models:/churn/1", labels: str | None = None) -> ResolvedModel:
    return resolve_model(uri, stores=stores(), progress=RecordedProgress(), labels=labels)


def test_a_served_model_is_downloaded_completely(registry: Registry, tmp_path: Path) -> None:
    registry.files["1/run/labels.json"] = b'{"0": "stays"}'
    for source in (
        "mlflow-artifacts:/1/m",
        f"{registry.uri}{SERVICE}/1/m",
        f"{registry.uri.replace('http', 'HTTP')}{SERVICE}/1/m",
    ):
        registry.source = source
        model = resolve()
        folder = download_model(model, stores=stores(), cache=tmp_path, progress=RecordedProgress())

        assert (folder / "MLmodel").read_bytes() == MLMODEL
        assert (folder / "data/my weights#1").read_bytes() == b"w"
        assert (folder.parent / "labels.json").read_bytes() == b'{"0": "stays"}'


SOURCES = [
    "mlflow-artifacts://{stranger}/m",
    "mlflow-artifacts://127.0.0.1:1@{stranger}/m",
    "http://{stranger}" + SERVICE + "/m",
    "http://{stranger}/m",
    "http://127.0.0.1:{port}@{stranger}" + SERVICE + "/m",
    "http://127.0.0.1:{port}\\@{stranger}" + SERVICE + "/m",
    "http://127.0.0.1:{port}/go?to=http://{stranger}" + SERVICE + "/m",
    "HTTP://{stranger}" + SERVICE + "/m",
    "https://127.0.0.1:{port}" + SERVICE + "/m",
    "ftp://{stranger}/m",
    "hdfs://{stranger}/m",
    "gs://bucket/m",
    "/etc",
    "file:///etc",
    "http://[",
    "https://{stranger}/m",
    "mlflow-artifacts://{stranger}#@127.0.0.1:{port}/m",
    "mlflow-artifacts://127.0.0.1:{port}#@{stranger}/m",
    "MLFLOW-ARTIFACTS://{stranger}/m",
    "http://{stranger}/%2e%2e" + SERVICE + "/m",
    "http:\\\\{stranger}\\m",
    "//{stranger}/m",
    "\\\\{stranger}\\m",
    "file://{stranger}/m",
    "http://{stranger}\t/m",
    "sftp://{stranger}/m",
    "wasbs://c@{stranger}/m",
    "abfss://c@{stranger}/m",
    "dbfs://profile@{stranger}/m",
    "git+http://{stranger}/m",
    "jar:http://{stranger}/m",
    "data:,x",
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("what", ["source", "run_root", "model_location"])
def test_no_uri_from_mlflow_leads_to_a_stranger(registry: Registry, stranger: Stranger, what: str, source: str) -> None:
    setattr(registry, what, source.format(stranger=stranger.place, port=registry.port))
    uri = {"source": "models:/churn/1", "run_root": f"runs:/{RUN}/m", "model_location": "models:/m-1"}[what]

    with pytest.raises(UntrustedSource) as caught:
        resolve(uri)

    assert stranger.seen == []
    assert "\n  hint: " in caught.value.message and TOKEN not in str(caught.value)


def test_a_version_cannot_lead_there_through_a_run_or_logged_model(registry: Registry, stranger: Stranger) -> None:
    registry.run_root = registry.model_location = f"mlflow-artifacts://{stranger.place}/m"
    for registry.source in (f"runs:/{RUN}/m", "models:/m-1"):
        with pytest.raises(UntrustedSource):
            resolve()

    assert stranger.seen == []


def test_a_models_run_is_not_followed_there_for_labels(registry: Registry, stranger: Stranger) -> None:
    registry.run_root = f"mlflow-artifacts://{stranger.place}/m"

    assert resolve().labels_uri is None
    with pytest.raises(UntrustedSource):
        resolve(labels="labels.json")
    assert stranger.seen == []


def test_credentials_are_not_sent_to_a_mistyped_server(registry: Registry, stranger: Stranger) -> None:
    for uri in (f"http://{stranger.place}{SERVICE}/m", f"mlflow-artifacts://{stranger.place}/m"):
        with pytest.raises(UntrustedSource):
            resolve(uri)
        with pytest.raises(UntrustedSource):
            resolve(labels=f"{uri}/labels.json")

    assert stranger.seen == []


def test_a_user_can_name_a_folder_on_this_machine(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_bytes(MLMODEL)

    assert resolve(str(tmp_path)).artifact_uri == str(tmp_path)


REDIRECTED = [
    "/health",
    "/api/2.0/mlflow/model-versions",
    f"{SERVICE}",
    f"{SERVICE}/1/m/MLmodel",
    "/api/2.0/mlflow/runs",
]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", REDIRECTED)
def test_no_redirect_is_followed_while_a_model_is_read(
    registry: Registry, stranger: Stranger, path: str, status: int
) -> None:
    registry.redirects[path] = status, f"http://{stranger.place}/login"
    with pytest.raises(FargateError, match=r"(?s)redirect.*MLFLOW_TRACKING_URI"):
        resolve(labels="labels.json")

    assert stranger.seen == []


def test_no_redirect_is_followed_while_a_model_is_downloaded(
    registry: Registry, stranger: Stranger, tmp_path: Path
) -> None:
    model = resolve()
    registry.redirects[f"{SERVICE}/1/m/data"] = 302, f"http://{stranger.place}/w"
    with pytest.raises(UntrustedSource, match="redirects to 'http://localhost"):
        download_model(model, stores=stores(), cache=tmp_path, progress=RecordedProgress())

    assert stranger.seen == []


@pytest.mark.parametrize("status", [302, 307])
def test_no_other_call_to_mlflow_follows_a_redirect(registry: Registry, stranger: Stranger, status: int) -> None:
    registry.redirects["/api"] = status, f"http://{stranger.place}/login"
    calls = [
        lambda: tag_model_version("churn", "1", {"status": "serving"}),
        lambda: move_version("churn", "1", "@champion"),
        lambda: model_uri_of(RUN),
        lambda: MlflowModelRegistry(registry.uri).look(["churn"]),
        lambda: MlflowModelRegistry(registry.uri).look_closely("churn"),
    ]
    for call in calls:
        with pytest.raises((MlflowException, FargateError)):
            call()
    answer = ask_server("/api/2.0/mlflow/webhooks")

    assert answer is not None and answer.status == status
    assert stranger.seen == []
    assert "MLFLOW_ALLOW_HTTP_REDIRECTS" not in os.environ


def test_without_the_refusal_a_redirect_would_carry_more_than_the_authorization(
    registry: Registry, stranger: Stranger
) -> None:
    """Why redirects are never followed: `requests` drops only one header."""
    registry.redirects["/health"] = 302, f"http://{stranger.place}/login"
    requests.get(f"{registry.uri}/health", headers={"Authorization": TOKEN, "X-Gateway-Key": KEY}, timeout=10)

    ((_, headers),) = stranger.seen
    assert "Authorization" not in headers and headers["X-Gateway-Key"] == KEY


def test_an_endless_file_is_not_read_completely(registry: Registry, tmp_path: Path) -> None:
    model = resolve()
    registry.files["1/m/data/my weights#1"] = bytes(5 << 20)
    with pytest.raises(ModelUnusable, match="changed"):
        download_model(model, stores=stores(), cache=tmp_path, progress=RecordedProgress())
    registry.files["1/m/MLmodel"] = bytes(9 << 20)
    with pytest.raises(ModelUnusable, match="larger than"):
        resolve()


@pytest.mark.parametrize(
    "listing", [[], {"files": [{}]}, {"files": 3}, {"files": [{"path": "a", "is_dir": False, "file_size": "x"}]}]
)
def test_an_invalid_artifact_list_is_refused(registry: Registry, monkeypatch: pytest.MonkeyPatch, listing: Any) -> None:
    monkeypatch.setattr(registry, "listing", lambda folder: listing)
    with pytest.raises(FargateError, match="could not be read through MLflow"):
        resolve()


@pytest.mark.parametrize("path", ["..", "../../x", "/etc", "a//b", "a\\b", "."])
def test_a_folder_outside_the_model_is_not_entered(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(registry, "listing", lambda folder: {"files": [{"path": path, "is_dir": True}]})
    with pytest.raises(ModelUnusable, match="safely"):
        resolve()

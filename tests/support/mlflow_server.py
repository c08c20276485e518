"""A real `mlflow server` on loopback, its artifacts in moto's S3, and models logged and registered there.

One server for all tests: with a new database it takes half a minute to start. It serves artifacts in both ways:
experiment `direct` is at s3://, experiment `proxied` at mlflow-artifacts:/.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import mlflow
import pytest
import requests

from support.serving_process import stop_group
from support.tracking_uri import use_tracking_uri

AWS_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
LABELS = {"0": "setosa", "1": "versicolor"}


@dataclass(frozen=True)
class MlflowServer:
    """The addresses of the server and its S3."""

    uri: str
    s3_endpoint_url: str

    def s3_client(self) -> Any:
        session = boto3.Session("test", "test", region_name="us-east-1")
        return session.client("s3", endpoint_url=self.s3_endpoint_url)


@dataclass(frozen=True)
class LoggedModels:
    """The logged models, by run and by model ID."""

    direct_run_id: str
    direct_model_id: str
    direct_location: str
    proxied_run_id: str


@pytest.fixture(scope="session")
def s3_endpoint_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """moto in a process of its own: in this one, every local stack that starts would empty its buckets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("s3") / "moto.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait_until_up(f"http://127.0.0.1:{port}", process, log, path="/moto-api/data.json")
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_group(process, 20)


@pytest.fixture(scope="session")
def mlflow_server(s3_endpoint_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    artifacts = ("--serve-artifacts", "--artifacts-destination", "s3://mlflow/proxied")
    MlflowServer("", s3_endpoint_url).s3_client().create_bucket(Bucket="mlflow")
    environment = {**AWS_ENVIRONMENT, "MLFLOW_S3_ENDPOINT_URL": s3_endpoint_url}
    with serve_mlflow(tmp_path_factory.mktemp("mlflow"), *artifacts, **environment) as uri:
        yield MlflowServer(uri, s3_endpoint_url)


@pytest.fixture(scope="session")
def logged_models(mlflow_server: MlflowServer) -> Iterator[LoggedModels]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in AWS_ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_S3_ENDPOINT_URL", mlflow_server.s3_endpoint_url)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        with use_tracking_uri(mlflow_server.uri):
            logged = _log_models()
    yield logged


@contextmanager
def serve_mlflow(folder: Path, *arguments: str, python: str = sys.executable, **environment: str) -> Iterator[str]:
    """Yields the URI of an `mlflow server` with a new database in `folder`; stops it and its workers.

    `python` is the interpreter that has the MLflow to serve with.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        python,
        "-c",
        "from mlflow.cli import cli; cli()",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", *arguments]
    lean = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **lean, **environment},
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_up(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_group(process, 20)


def _wait_until_up(uri: str, process: subprocess.Popen[bytes], log: Path, path: str = "/health") -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{uri}{path}", timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-3000:]}")


class Doubler(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow ships no types
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # mlflow reads type hints
        return model_input * 2


def _log_models() -> LoggedModels:
    client = mlflow.MlflowClient()
    direct = client.create_experiment("direct", artifact_location="s3://mlflow/direct")
    proxied = client.create_experiment("proxied", artifact_location="mlflow-artifacts:/one")
    with mlflow.start_run(experiment_id=direct) as run:
        mlflow.log_text(json.dumps(LABELS), "rev_labels_iris.json")
        logged = _log_model("iris")
    location = client.get_logged_model(logged.model_id).artifact_location
    with mlflow.start_run(experiment_id=proxied) as proxied_run:
        mlflow.log_text(json.dumps(LABELS), "labels_iris.json")
        _log_model("proxied")
    client.create_model_version("iris", f"runs:/{run.info.run_id}/model", run.info.run_id)  # version 2
    client.copy_model_version("models:/iris/1", "iris-copy")
    client.create_registered_model("iris-s3")
    client.create_model_version("iris-s3", location)
    client.create_registered_model("empty")
    client.set_registered_model_alias("iris", "champion", "1")
    # The older one is promoted last, and the newer one keeps its stage: MLflow then still returns the newer.
    client.transition_model_version_stage("iris", "2", "Production")
    client.transition_model_version_stage("iris", "1", "Production")
    return LoggedModels(run.info.run_id, logged.model_id, location, proxied_run.info.run_id)


def _log_model(registered_name: str) -> Any:
    # Without the list, MLflow would infer the requirements in a separate process for ten seconds.
    return mlflow.pyfunc.log_model(
        name="model", python_model=Doubler(), pip_requirements=["mlflow"], registered_model_name=registered_name
    )


@contextmanager
def telling_server(folder: Path) -> Iterator[str]:
    """Yields the URI of a server with the `fargate-` registry store, which can send webhooks to this machine."""
    store = ("--registry-store-uri", f"fargate-sqlite:///{folder}/mlflow.db")
    allowed = {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"}
    with serve_mlflow(folder, *store, **allowed) as uri:
        yield uri

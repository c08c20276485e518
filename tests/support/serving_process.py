"""Runs the service as in the image: a real Bento's source, a model directory, the image's entry point."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

from mlflow_fargate import bento
from mlflow_fargate.image.layers.paths import SETTINGS
from mlflow_fargate.resolved_model import ResolvedModel

KEY = "s3cret"
ENTRY_POINT = SETTINGS["Entrypoint"][1:]
BENTOML_SERVE = ("-m", "bentoml", "serve", "service:Service")


@dataclass(frozen=True)
class Running:
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def session(self) -> requests.Session:
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {KEY}"
        return session


def build(
    model_dir: Path, into: Path, labels: dict[str, str] | None = None, options: Mapping[str, Any] | None = None
) -> Path:
    """Returns the source of a Bento for the model: the contents of /opt/app/src."""
    model = ResolvedModel(
        requested_uri="models:/digits@champion",
        resolved_uri="models:/digits/3",
        artifact_uri=str(model_dir),
        files=(),
        metadata=yaml.safe_load((model_dir / "MLmodel").read_text()),
        name="digits",
        version="3",
        run_id="0a1b",
        labels_uri="labels.json" if labels else None,
    )
    template = bento.choose_template(model)
    content = json.dumps(labels).encode() if labels else None
    served = bento.ServedModel(model, template, options or {})
    return bento.build_bento(served, content, into / "bento").source


@contextmanager
def serve(
    source: Path,
    model_dir: Path,
    folder: Path,
    *,
    ready: bool = True,
    entry_point: Sequence[str] = ENTRY_POINT,
    python: str = sys.executable,
    **environment: str,
) -> Iterator[Running]:
    """Starts the service as the container does, at /digits; ends it with all its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "BENTOML_HOST": "127.0.0.1",
        "BENTOML_PORT": str(port),
        "BENTOML_HOME": str(folder / "home"),
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_CONTAINERIZED": "true",
        "OTEL_SDK_DISABLED": "true",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MODEL_DIR": str(model_dir),
        "PATH_PREFIX": "/digits",
        "TASK_MEMORY_MIB": "2048",  # the default of a task
    }
    # A task has none of MLflow's variables; MLflow sets some in the process of a test, as for an experiment.
    inherited = {name: value for name, value in os.environ.items() if "MLFLOW_" not in name}
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, *entry_point],
            cwd=source,
            env={**inherited, **settings, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Running(f"http://127.0.0.1:{port}/digits", process, log)
    try:
        if ready:
            wait_until_ready(running)
        yield running
    finally:
        stop_group(process, 30)


def stop_group(process: subprocess.Popen[bytes], timeout_seconds: float) -> None:
    """Terminates a process that was started with `start_new_session`, and kills what is left of its group.

    It may have ended already. Raises TimeoutExpired, after killing it, if SIGTERM did not end it in time.
    """
    try:
        process.terminate()
        process.wait(timeout_seconds)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_ready(running: Running) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and running.process.poll() is None:
        try:
            if requests.get(f"{running.url}/readyz", timeout=2).status_code == 200:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise AssertionError(f"the service did not become ready:\n{running.log.read_text()[-3000:]}")

"""The local stack's MLflow tracking server: `mlflow server` with few processes, and artifacts in the stack's S3.

One worker, no job runners (600 MB of processes that are not needed here), no telemetry; webhooks can call this machine.
It is behind the guard (guard.py), like every server of the stack; it does not require a password.
A first start creates the database, which takes half a minute on a slow machine.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import requests

from mlflow_fargate import atomic_files
from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.local.container import task_init
from mlflow_fargate.local.container.runner import free_port
from mlflow_fargate.progress import Progress

BUCKET = "mlflow"
_START_SECONDS = 240
_STOP_SECONDS = 10
_TELL_EVERY_SECONDS = 10


class TrackingServer:
    """`mlflow server` as a child process that ends with this one."""

    def __init__(self, directory: Path, s3_environment: Mapping[str, str], *, serve_artifacts: bool) -> None:
        self._directory = directory
        self._environment = s3_environment
        self._serve_artifacts = serve_artifacts
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self._directory / "mlflow.log"

    def start(self, progress: Progress) -> None:
        """Starts the server and waits until it responds; LocalStackError with its last log lines if it does not."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", task_init.__file__, *self._command()],
                env={**_inherited(), **_LEAN, **_WEBHOOKS, **self._environment, _WEBHOOK_KEY: self._webhook_key()},
                stdin=subprocess.PIPE,  # never written to: when it closes, the server ends
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_ready(progress)

    def stop(self) -> None:
        """Ends the server and its workers; runs and models stay on disk."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        self._process = None

    def __enter__(self) -> TrackingServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _command(self) -> list[str]:
        database = f"sqlite:///{self._directory / 'mlflow.db'}"
        bucket = f"s3://{BUCKET}"
        artifacts = (
            ["--artifacts-destination", bucket] if self._serve_artifacts else ["--default-artifact-root", bucket]
        )
        serve = "--serve-artifacts" if self._serve_artifacts else "--no-serve-artifacts"
        listen = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database]
        return [*server, serve, *artifacts, *listen, "--app-name", "fargate-local"]

    def _webhook_key(self) -> str:
        """Returns the key with which MLflow encrypts its webhooks' secrets; kept on disk, so that they stay readable.

        A Fernet key: 32 random bytes. Source: https://cryptography.io/en/latest/fernet/
        """
        file = self._directory / "webhook.key"
        if not file.exists():
            atomic_files.write(file, base64.urlsafe_b64encode(os.urandom(32)), mode=0o600)
        return file.read_text(encoding="ascii")

    def _wait_until_ready(self, progress: Progress) -> None:
        began = told = time.monotonic()
        while not self._answers():
            now = time.monotonic()
            if self._process is not None and self._process.poll() is not None:
                raise LocalStackError(f"MLflow's tracking server exited:\n{self._last_words()}")
            if now - began > _START_SECONDS:
                raise LocalStackError(
                    f"MLflow's tracking server did not respond within {_START_SECONDS} s; see {self.log}"
                )
            if now - told > _TELL_EVERY_SECONDS:
                told = now
                progress.note(f"waiting for MLflow, {now - began:.0f} s (the first start creates its database)")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def _last_words(self) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


_LEAN = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PYTHONUNBUFFERED": "1",
}

# Every request goes to this machine.
_WEBHOOKS = {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https,http", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"}
_WEBHOOK_KEY = "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"


def _inherited() -> dict[str, str]:
    """Returns the environment without the caller's AWS and MLflow settings, which are for other servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_"))}

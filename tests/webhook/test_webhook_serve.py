"""Tests the service as a process: it listens, reports that it cannot read AWS, and stops on SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

from mlflow_fargate.cli import main

SERVE = """
import os
from mlflow_fargate.webhook.serve import serve
from mlflow_fargate.webhook.settings import parse_settings
serve(parse_settings(os.environ))
"""


@pytest.mark.slow
def test_it_serves_until_sigterm(tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "FARGATE_TARGET": "fargate:/nowhere",
        "FARGATE_WEBHOOK_PORT": "0",
        "FARGATE_WEBHOOK_SECRET": "s3cret",
        "FARGATE_WEBHOOK_TOKEN": "t0ken",
        "FARGATE_WEBHOOK_PREFIX": "/_webhook",
    }
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "webhook service on" in line)
            url = line.partition("service on ")[2].split()[0]

            assert requests.get(f"{url}/healthz", timeout=10).status_code == 200
            assert requests.get(f"{url}/_webhook/healthz", timeout=10).status_code == 200
            assert requests.get(f"{url}/_webhook", timeout=10, auth=("anyone", "t0ken")).status_code == 200
            assert requests.get(f"{url}/readyz", timeout=10).status_code == 503
            assert requests.post(f"{url}/events", data=b"{}", timeout=10).status_code == 401
            # Sent in chunks, so that no header contains the length.
            too_long = requests.post(f"{url}/events", data=iter([b"x" * 10_000] * 10), timeout=10)
            assert too_long.status_code == 413
            assert "does not watch a deployment named 'nobody'" in _said_by_retry(url, "t0ken")
            assert "refused the token" in _said_by_retry(url, "wrong")
        finally:
            process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        assert process.wait(20) == 0
    assert "stopping" in said and "Traceback" not in said


def test_the_token_is_not_sent_to_where_a_response_redirects() -> None:
    asked: list[str] = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(307)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        do_GET = do_POST

    with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            said = _said_by_retry(f"http://127.0.0.1:{server.server_port}", "t0ken")
        finally:
            server.shutdown()
            thread.join()

    assert "redirects (HTTP 307)" in said
    assert asked == ["/retry/nobody"]


def _said_by_retry(url: str, token: str) -> str:
    result = CliRunner().invoke(main, ["webhook", "retry", "nobody", "--url", url, "--token", token])
    assert result.exit_code == 1
    return result.output

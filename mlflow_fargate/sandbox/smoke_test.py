"""Starts a service on this machine the way a task would, and waits for it to respond, before anything is deployed.

At startup, the service predicts the model's input example (service_template does this), so a service that reports
ready has loaded its model and predicted once.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import requests

from mlflow_fargate.errors import SmokeTestFailed
from mlflow_fargate.sandbox.process import last_lines, opened_sandbox
from mlflow_fargate.stop_reasons import explaining_lines, hint_for_stop

TIMEOUT_SECONDS = 300.0
_SHOWN_LINES = 15  # of a service that names no cause
_SAME_FAILURE = "a task on Fargate would fail the same way; smoke_test=false skips this test"
_KILLED = (
    "the service was killed, usually because this machine ran out of memory; free some memory, or skip the test: "
    "smoke_test=false"
)


def run_smoke_test(
    entry_point: Sequence[str],
    *,
    working_directory: Path,
    environment: Mapping[str, str],
    interpreter: str,
    log: Path,
    timeout_seconds: float = TIMEOUT_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Returns the seconds until the service was ready; raises SmokeTestFailed, with the cause, if it never was.

    All its processes have ended when this returns; `log` has their output.
    """
    port = _free_port()
    with opened_sandbox(interpreter, log) as sandbox:
        variables = {
            **environment,
            "BENTOML_HOME": str(sandbox.folder / "bentoml"),
            "BENTOML_HOST": "127.0.0.1",
            "BENTOML_PORT": str(port),
        }
        with sandbox.running(entry_point[1:], working_directory=working_directory, environment=variables) as process:
            began = clock()
            while not _is_ready(port):
                if process.poll() is not None:
                    # bubblewrap, like a shell, returns 128 and the signal that ended the service.
                    code = 128 - process.returncode if process.returncode > 128 else process.returncode
                    raise _failure(f"exited with code {code}", log, code)
                if clock() - began > timeout_seconds:
                    raise _failure(f"was not ready within {timeout_seconds:.0f} s", log, None)
                sleep(0.2)
            return clock() - began


def _failure(what: str, log: Path, exit_code: int | None) -> SmokeTestFailed:
    lines = last_lines(log)
    shown = "".join(f"\n    | {line}" for line in explaining_lines(lines, _SHOWN_LINES))
    return SmokeTestFailed(
        f"Smoke test failed, so nothing was deployed: the service {what}.{shown}\n  Full log: {log}",
        hint=hint_for_stop("", exit_code, lines) or (_KILLED if exit_code == -signal.SIGKILL else _SAME_FAILURE),
    )


def _is_ready(port: int) -> bool:
    session = requests.Session()
    session.trust_env = False  # loopback requests must not go through a proxy
    try:
        return session.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

"""A service is started on this machine, as a task would start it, and must answer: before anything is deployed.

When it starts, the service predicts the model's input example (service_template does that by itself), so one that
says it is ready has loaded its model and answered once. The process gets a clean environment, a Python with no packages
but the image's, and a folder of its own; it is not shut in otherwise. A model is code: see docs/packages.md.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import requests

from mlflow_fargate.errors import TrialFailed

TIMEOUT_SECONDS = 300.0
_SHOWN_LINES = 15
_END_SECONDS = 10.0


def try_service(
    entry_point: Sequence[str],
    *,
    working_directory: Path,
    environment: Mapping[str, str],
    interpreter: str,
    timeout_seconds: float = TIMEOUT_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """How many seconds the service took until it was ready; TrialFailed, with its last lines, when it does not get so.

    Nothing of it runs when this returns.
    """
    with tempfile.TemporaryDirectory(prefix="mlflow-fargate-trial-") as folder:
        work = Path(folder)
        python = _make_bare_python(interpreter, work / "python")
        port = _free_port()
        variables = {
            "PATH": f"{python.parent}{os.pathsep}{os.defpath}",
            "LANG": "C.UTF-8",
            **environment,
            "HOME": folder,
            "TMPDIR": folder,
            "BENTOML_HOME": str(work / "bentoml"),
            "BENTOML_HOST": "127.0.0.1",
            "BENTOML_PORT": str(port),
        }
        log = work / "output.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(python), *entry_point[1:]],
                cwd=working_directory,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  # one system call, for a library that is loaded already
            )
        began = clock()
        try:
            while not _is_ready(port):
                if process.poll() is not None:
                    raise _failure(f"ended with exit code {process.returncode}", log)
                if clock() - began > timeout_seconds:
                    raise _failure(f"was not ready after {timeout_seconds:.0f} s", log)
                sleep(0.2)
            return clock() - began
        finally:
            _end(process)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Linux ends the service (SIGTERM) when we are killed, so that it does not run on for nobody. Source: prctl(2)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _failure(what: str, log: Path) -> TrialFailed:
    lines = log.read_text(errors="replace").strip().splitlines()[-_SHOWN_LINES:]
    said = "\n".join(f"    {line}" for line in lines)
    return TrialFailed(
        f"The service {what} when it was tried on this machine, so nothing was deployed; it says:\n{said}",
        hint="what it says is what a task on Fargate would; smoke_test=false deploys without trying",
    )


def _make_bare_python(interpreter: str, folder: Path) -> Path:
    """A Python that sees no packages of this machine's."""
    command = [interpreter, "-m", "venv", "--without-pip", "--symlinks", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise TrialFailed(
            f"No bare Python could be made of {interpreter} to try the service with: {made.stderr.strip()}",
            hint="smoke_test=false deploys without trying",
        )
    return folder / "bin" / "python3"


def _is_ready(port: int) -> bool:
    session = requests.Session()
    session.trust_env = False  # no proxy stands between this machine and itself
    try:
        return session.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks it to end, then kills it and whatever it started."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

"""Runs a model's code on this machine: in a process with a clean environment, a bare Python and its own folder.

It sees neither the user's credentials nor any packages except those passed to it. It is not isolated otherwise; a model
is code, see docs/packages.md.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow_fargate.errors import SmokeTestFailed

_LAST_LINES = 50
_END_SECONDS = 10.0
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Sandbox:
    """A temporary folder, a Python that does not see this machine's packages, and the file for its output."""

    folder: Path
    python: Path
    log: Path

    @contextmanager
    def running(
        self, arguments: Sequence[str], *, working_directory: Path, environment: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Starts the sandbox's Python with these arguments; ends it and its children when the context exits."""
        variables = {
            "PATH": f"{self.python.parent}{os.pathsep}{os.defpath}",
            "LANG": "C.UTF-8",
            **environment,
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
        }
        with self.log.open("wb") as output:
            process = subprocess.Popen(
                [str(self.python), *arguments],
                cwd=working_directory,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  # one system call, in a library that is already loaded
            )
        try:
            yield process
        finally:
            _end(process)


@contextmanager
def opened_sandbox(interpreter: str, log: Path | None = None) -> Iterator[Sandbox]:
    """Yields a sandbox; raises SmokeTestFailed if `interpreter` cannot create a virtual environment.

    `log` is the file for its output, by default one that is deleted with the sandbox.
    """
    with tempfile.TemporaryDirectory(prefix="mlflow-fargate-sandbox-") as folder:
        python = Path(folder) / "python"
        command = [interpreter, "-m", "venv", "--without-pip", "--symlinks", str(python)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise SmokeTestFailed(
                f"Could not create a clean virtual environment from {interpreter}: {made.stderr.strip()}",
                hint="deploy without the smoke test: smoke_test=false",
            )
        yield Sandbox(Path(folder), python / "bin" / "python3", log or Path(folder) / "output.log")


def last_lines(log: Path) -> list[str]:
    """Returns the last lines of a process's output."""
    return log.read_text(errors="replace").strip().splitlines()[-_LAST_LINES:]


def _end_with_parent() -> None:
    """Makes Linux end the process (SIGTERM) when its parent is killed, so it does not run on. Source: prctl(2)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminates the process, then kills it and everything it started."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

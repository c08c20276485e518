"""Where a model's code runs on this machine: a process with a clean environment, a bare Python and a folder of its own.

It sees no credentials of the deployer's and no packages but those it is given; it is not shut in otherwise. A model is
code: see docs/packages.md.
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

_SHOWN_LINES = 15
_END_SECONDS = 10.0
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Sandbox:
    """A folder, gone when the sandbox is closed, with a Python that sees no packages of this machine's."""

    folder: Path
    python: Path

    @property
    def log(self) -> Path:
        """What the process has written."""
        return self.folder / "output.log"

    @contextmanager
    def running(
        self, arguments: Sequence[str], *, working_directory: Path, environment: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[bytes]]:
        """The sandbox's Python with these arguments; nothing of it runs when the context ends."""
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
                preexec_fn=_end_with_parent,  # noqa: PLW1509  # one system call, for a library that is loaded already
            )
        try:
            yield process
        finally:
            _end(process)


@contextmanager
def opened_sandbox(interpreter: str) -> Iterator[Sandbox]:
    """A sandbox while the context lasts; SmokeTestFailed when no bare Python can be made of `interpreter`."""
    with tempfile.TemporaryDirectory(prefix="mlflow-fargate-sandbox-") as folder:
        python = Path(folder) / "python"
        command = [interpreter, "-m", "venv", "--without-pip", "--symlinks", str(python)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise SmokeTestFailed(
                f"No bare Python could be made of {interpreter} to try the service with: {made.stderr.strip()}",
                hint="smoke_test=false deploys without trying",
            )
        yield Sandbox(Path(folder), python / "bin" / "python3")


def last_lines(log: Path) -> str:
    """The end of what a process wrote, indented."""
    lines = log.read_text(errors="replace").strip().splitlines()[-_SHOWN_LINES:]
    return "\n".join(f"    {line}" for line in lines)


def _end_with_parent() -> None:
    """Linux ends the process (SIGTERM) when we are killed, so that it does not run on for nobody. Source: prctl(2)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks it to end, then kills it and whatever it started."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

"""Runs a model's code on this machine: in a process with a clean environment, a bare Python and its own folder.

It sees neither the user's credentials nor any packages except those passed to it and, with bubblewrap, nothing else of
the user's home folder. It is not isolated otherwise; a model is code, see docs/security.md.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow_fargate.errors import SmokeTestFailed

_HOME = Path.home()
_BWRAP = ("bwrap", "--die-with-parent", "--dev-bind", "/", "/", "--tmpfs", str(_HOME))
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
        self,
        arguments: Sequence[str],
        *,
        working_directory: Path,
        environment: Mapping[str, str],
        folders: Sequence[Path] = (),
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Starts the sandbox's Python with these arguments; ends it and its children when the context exits.

        Of the home folder, it sees `folders`, and the files and folders in the environment.
        """
        variables = {
            "PATH": f"{self.python.parent}{os.pathsep}{os.defpath}",
            "LANG": "C.UTF-8",
            **environment,
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
        }
        named = (Path(part) for value in environment.values() for part in value.split(os.pathsep))
        kept = [self.folder, self.python.resolve().parents[1], working_directory, *folders, *named]
        with self.log.open("wb") as output:
            process = subprocess.Popen(
                [*_without_home(kept), str(self.python), *arguments],
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


@functools.cache
def hides_home() -> bool:
    """Returns whether bubblewrap is installed and allowed to replace the home folder by an empty one."""
    return (
        bool(shutil.which("bwrap"))
        and not subprocess.run([*_BWRAP, "true"], capture_output=True, check=False).returncode
    )


def _without_home(kept: Sequence[Path]) -> list[str]:
    """Returns a command that runs another with only these paths of the home folder; [] without bubblewrap."""
    inside = [str(path) for path in kept if _HOME in path.parents and path.exists()]
    return [*_BWRAP, *(part for path in inside for part in ("--bind", path, path))] if hides_home() else []


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

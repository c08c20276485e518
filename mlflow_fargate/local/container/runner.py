"""Runs one task of an image without a container engine: its layers, with this machine's Python, as a process.

    ProcessRunner.pull(image)    → PulledImage       layers unpacked once (image_store)
    ProcessRunner.start(spec)    → TaskProcess       an empty virtual environment's python3 first on PATH, the image's
                                                     paths mapped to its unpacked root, a clean environment, a free port

Limits: no isolation, no memory limit, no separate network, only one container per task. There is no network namespace,
so the process listens on 127.0.0.1 and a free port (set in BENTOML_HOST/_PORT, HOST/PORT); the engine maps the task's
address to that port. EngineRunner (engine_runner) runs tasks in containers.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import venv
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO

import psutil

from mlflow_fargate.local.container.image_store import CannotPull, ImageStore, PulledImage
from mlflow_fargate.local.container.launch import (
    ContainerSpec,
    ExecSpec,
    TaskFailedToStart,
    make_command,
    make_environment,
    make_exec_command,
    make_working_directory,
)
from mlflow_fargate.local.container.task_runner import OnLine

logger = logging.getLogger(__name__)

_INIT = Path(__file__).with_name("task_init.py")
# Set for every process of a task, to identify what a killed stack left running.
_MARK = "MLFLOW_FARGATE_TASK"
_LONGEST_LINE_BYTES = 256 * 1024  # CloudWatch Logs' limit for one event
_KILL_SECONDS = 5.0
_given_ports: deque[int] = deque(maxlen=1000)  # the newest
_giving_ports = threading.Lock()

_DEFAULT_INHERITED: Mapping[str, str] = MappingProxyType({"LANG": "C.UTF-8"})


class ProcessRunner:
    """Runs tasks as processes, with folders in `state`; first ends what an earlier run left behind.

    `inherited` is all that tasks inherit from the environment. `of_roles` returns the extra variables of a task with a
    role.
    """

    runs_all_containers = False

    def __init__(
        self,
        images: ImageStore,
        state: Path,
        inherited: Mapping[str, str] = _DEFAULT_INHERITED,
        of_roles: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._images = images
        self._tasks = state / "tasks"
        self._environments = state / "environments"
        self._inherited = dict(inherited)
        self._of_roles = of_roles
        self._lock = threading.Lock()
        self._running: dict[str, tuple[ContainerSpec, TaskProcess]] = {}
        kill_tasks_below(self._tasks)
        shutil.rmtree(self._tasks, ignore_errors=True)
        self._tasks.mkdir(parents=True)

    def pull(self, image: str) -> PulledImage:
        try:
            return self._images.pull(image)
        except CannotPull as error:
            raise TaskFailedToStart(f"CannotPullContainerError: {error}") from error
        except OSError as error:
            raise TaskFailedToStart.at("CannotPullContainerError", error) from error

    def start(self, spec: ContainerSpec, on_line: OnLine) -> TaskProcess:
        _refuse_other_python(spec.image)
        try:
            return self._start(spec, on_line)
        except (OSError, ValueError) as error:
            raise TaskFailedToStart.at("CannotStartContainerError", error) from error

    def _start(self, spec: ContainerSpec, on_line: OnLine) -> TaskProcess:
        folder = self._tasks / spec.task_id
        (folder / "tmp").mkdir(parents=True)
        port = free_port()
        environment = {
            **self._inherited,
            **(self._of_roles() if spec.has_role else {}),
            **make_environment(spec, tmp=folder / "tmp", python_folder=self._python_folder(), port=port),
            _MARK: str(folder),
        }
        command = make_command(spec.container, spec.image, self._python_folder())
        for note in spec.image.notes:
            on_line(note)
        process = TaskProcess(
            command,
            environment=environment,
            working_directory=make_working_directory(spec.container, spec.image),
            folder=folder,
            port=port,
            on_line=on_line,
        )
        self._running[spec.task_id] = (spec, process)
        return process

    def exec_spec(self, task_id: str, container: str, command: str, *, as_root: bool = True) -> ExecSpec | None:
        spec, process = self._running.get(task_id, (None, None))
        if spec is None or process is None or not process.is_running:
            return None
        return ExecSpec(
            command=make_exec_command(spec.image, command),
            environment=process.environment,
            working_directory=process.working_directory,
            task_pid=process.pid,
        )

    def release(self, task_id: str) -> None:
        self._running.pop(task_id, None)

    def _python_folder(self) -> Path:
        """Returns the bin folder of an empty virtual environment shared by all tasks."""
        with self._lock:
            folder = self._environments / f"python-{sys.version_info[0]}.{sys.version_info[1]}"
            python = folder / "bin" / "python3"
            if not python.exists():  # also if the interpreter it links to was removed
                part = folder.with_name(f"{folder.name}.part")
                shutil.rmtree(folder, ignore_errors=True)
                venv.EnvBuilder(clear=True, symlinks=True, with_pip=False).create(part)
                part.rename(folder)
            return python.parent


class TaskProcess:
    """A task's process below its init (task_init), and the thread that reads what it writes."""

    reason: str | None = None

    def __init__(
        self,
        command: tuple[str, ...],
        *,
        environment: Mapping[str, str],
        working_directory: Path,
        folder: Path,
        port: int,
        on_line: OnLine,
    ) -> None:
        self.host_port = port
        self.environment = dict(environment)
        self.working_directory = working_directory
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_INIT), *command],
            cwd=working_directory,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None  # noqa: S101  # piped above
        output = self._process.stdout
        self._reader = threading.Thread(
            target=pass_lines, args=(output, on_line), name=f"log-{folder.name[:8]}", daemon=True
        )
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout_seconds: float) -> int | None:
        try:
            code = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None
        return self._finish(code)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> int:
        self._abandon()
        code = self.wait(_KILL_SECONDS)
        if code is None:
            self._process.kill()
            code = self._finish(self._process.wait())
        return code

    def _abandon(self) -> None:
        """Closes the pipe that its init process watches, which then kills everything immediately."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()

    def _finish(self, code: int) -> int:
        self._abandon()
        if code < 0:  # its init process was killed and could not clean up
            kill_tasks_below(self._folder)
        self._reader.join(_KILL_SECONDS)
        shutil.rmtree(self._folder / "tmp", ignore_errors=True)
        return 128 - code if code < 0 else code


def pass_lines(output: IO[bytes], on_line: OnLine) -> None:
    """Calls `on_line` with each line of `output` until it ends."""
    with output:
        while line := output.readline(_LONGEST_LINE_BYTES):
            on_line(line.decode("utf-8", "replace").rstrip("\r\n"))


def free_port() -> int:
    """Returns a port of 127.0.0.1 that nothing listens on now, and that it did not return lately."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        with _giving_ports:
            # The port of a task that is not listening yet still looks free.
            if port not in _given_ports:
                _given_ports.append(port)
                return port


def kill_tasks_below(folder: Path) -> None:
    """Kills every process of tasks whose folder is in `folder`, whatever its current parent is."""
    below = str(folder)
    doomed = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(_MARK, "")
            if mark == below or mark.startswith(f"{below}{os.sep}"):
                logger.info("killing process %s, left over from task %s", process.pid, Path(mark).name)
                process.kill()
                doomed.append(process)
        except (psutil.Error, OSError):
            continue  # no permission to read it, or already gone
    psutil.wait_procs(doomed, timeout=_KILL_SECONDS)


def _refuse_other_python(image: PulledImage) -> None:
    version = image.python_version
    if version and version.split(".")[:2] != [str(part) for part in sys.version_info[:2]]:
        ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise TaskFailedToStart(
            f"CannotStartContainerError: the image is for Python {version}, but this machine runs Python {ours}; "
            f"the local stack uses this machine's Python: rebuild the image on a Python {ours} base image"
        )

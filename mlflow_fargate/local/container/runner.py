"""Runs one task of an image without a container engine: its layers, with this machine's Python, as a process.

    ProcessRunner.pull(image)    → PulledImage       layers unpacked once (image_store)
    ProcessRunner.start(spec)    → TaskProcess       a bare virtual environment's python3 first on PATH, the image's own
                                                     paths led into its unpacked root, a clean environment, a free port

What it is not: no isolation, no memory limit, no network of its own, no second container of a task. There is no
network namespace, so the process is told to listen on 127.0.0.1 and a free port (BENTOML_HOST/_PORT, HOST/PORT); who
knows the task's address asks the engine where it really listens. An engine-backed runner (docker, podman) would be
another TaskRunner.
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
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Protocol

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

logger = logging.getLogger(__name__)

_INIT = Path(__file__).with_name("task_init.py")
# Every process of a task carries it, so that the leftovers of a killed stack can be told from anybody else's.
_MARK = "MLFLOW_FARGATE_TASK"
_LONGEST_LINE_BYTES = 256 * 1024  # of an event in CloudWatch Logs
_KILL_SECONDS = 5.0

_DEFAULT_INHERITED: Mapping[str, str] = MappingProxyType({"LANG": "C.UTF-8"})

OnLine = Callable[[str], None]


class StartedTask(Protocol):
    """A task that was started."""

    @property
    def pid(self) -> int: ...

    @property
    def host_port(self) -> int:
        """Where it listens, on 127.0.0.1."""

    def wait(self, timeout_seconds: float) -> int | None:
        """Its exit code once it ended and its last line was handed on; None: it still runs."""

    def terminate(self) -> None:
        """Asks it to end (SIGTERM)."""

    def kill(self) -> int:
        """Ends it and everything it started; its exit code."""


class TaskRunner(Protocol):
    """Something that can run a task's container."""

    def pull(self, image: str) -> PulledImage:
        """The image, ready; TaskFailedToStart in ECS's words when it cannot be had."""

    def start(self, spec: ContainerSpec, on_line: OnLine) -> StartedTask:
        """The task, started; `on_line` gets each line it writes."""

    def exec_spec(self, task_id: str, command: str) -> ExecSpec | None:
        """How to run a command in a task that was started; None when it does not run."""


class ProcessRunner:
    """Tasks as processes of this machine; their folders under `state`, the leftovers of an earlier run ended first.

    `inherited` is all that tasks get of the surrounding environment: the caller's choice of LANG and the like.
    `of_roles` gives what a task with a role has besides, where on ECS it would find credentials.
    """

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
        self._ports: set[int] = set()
        self._running: dict[str, tuple[ContainerSpec, TaskProcess]] = {}
        kill_tasks_below(self._tasks)
        shutil.rmtree(self._tasks, ignore_errors=True)
        self._tasks.mkdir(parents=True)

    def pull(self, image: str) -> PulledImage:
        try:
            return self._images.pull(image)
        except CannotPull as error:
            raise TaskFailedToStart(f"CannotPullContainerError: {error}") from error

    def start(self, spec: ContainerSpec, on_line: OnLine) -> TaskProcess:
        _refuse_other_python(spec.image)
        folder = self._tasks / spec.task_id
        (folder / "tmp").mkdir(parents=True)
        port = self._free_port()
        environment = {
            **self._inherited,
            **(self._of_roles() if spec.has_role else {}),
            **make_environment(spec, tmp=folder / "tmp", python_folder=self._python_folder(), port=port),
            _MARK: str(folder),
        }
        command = make_command(spec.container, spec.image, self._python_folder())
        for note in spec.image.notes:
            on_line(note)
        try:
            process = TaskProcess(
                command,
                environment=environment,
                working_directory=make_working_directory(spec.container, spec.image),
                folder=folder,
                port=port,
                on_line=on_line,
            )
        except OSError as error:
            raise TaskFailedToStart(f"CannotStartContainerError: {error}") from error
        with self._lock:
            alive = {name: pair for name, pair in self._running.items() if pair[1].is_running}
            self._running = {**alive, spec.task_id: (spec, process)}
        return process

    def exec_spec(self, task_id: str, command: str) -> ExecSpec | None:
        spec, process = self._running.get(task_id, (None, None))
        if spec is None or process is None or not process.is_running:
            return None
        return ExecSpec(
            command=make_exec_command(spec.image, command),
            environment=process.environment,
            working_directory=process.working_directory,
            task_pid=process.pid,
        )

    def _free_port(self) -> int:
        with self._lock:
            while True:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", 0))
                    port: int = probe.getsockname()[1]
                # Given to a task that does not listen yet, a port still looks free.
                if port not in self._ports:
                    self._ports.add(port)
                    return port

    def _python_folder(self) -> Path:
        """The bin folder of a virtual environment with nothing in it, shared by all tasks."""
        with self._lock:
            folder = self._environments / f"python-{sys.version_info[0]}.{sys.version_info[1]}"
            python = folder / "bin" / "python3"
            if not python.exists():  # also when the interpreter it led to was removed
                part = folder.with_name(f"{folder.name}.part")
                shutil.rmtree(folder, ignore_errors=True)
                venv.EnvBuilder(clear=True, symlinks=True, with_pip=False).create(part)
                part.rename(folder)
            return python.parent


class TaskProcess:
    """A task's process below its init (task_init), and the thread that reads what it writes."""

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
        assert self._process.stdout is not None  # noqa: S101  # asked for above
        output = self._process.stdout
        self._reader = threading.Thread(
            target=self._read, args=(output, on_line), name=f"log-{folder.name[:8]}", daemon=True
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
        """Closes the pipe that its init watches: it kills everything at once."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()

    def _finish(self, code: int) -> int:
        self._abandon()
        if code < 0:  # its init was killed from outside and could not tidy up
            kill_tasks_below(self._folder)
        self._reader.join(_KILL_SECONDS)
        shutil.rmtree(self._folder / "tmp", ignore_errors=True)
        return 128 - code if code < 0 else code

    def _read(self, output: IO[bytes], on_line: OnLine) -> None:
        with output:
            while line := output.readline(_LONGEST_LINE_BYTES):
                on_line(line.decode("utf-8", "replace").rstrip("\r\n"))


def kill_tasks_below(folder: Path) -> None:
    """Kills every process that was started as a task with its folder there, whoever its parent is now."""
    below = str(folder)
    doomed = []
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(_MARK, "")
            if mark == below or mark.startswith(f"{below}{os.sep}"):
                logger.info("ending process %s, left over from task %s", process.pid, Path(mark).name)
                process.kill()
                doomed.append(process)
        except (psutil.Error, OSError):
            continue  # not ours to look at, or gone already
    psutil.wait_procs(doomed, timeout=_KILL_SECONDS)


def _refuse_other_python(image: PulledImage) -> None:
    version = image.python_version
    if version and version.split(".")[:2] != [str(part) for part in sys.version_info[:2]]:
        ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise TaskFailedToStart(
            f"CannotStartContainerError: the image is made for Python {version}, this machine runs Python {ours}; "
            "the local stack runs images with this machine's Python: build the image on a base of that version"
        )

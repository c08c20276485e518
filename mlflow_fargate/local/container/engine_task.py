"""A task's container while it runs: its output, its end, and why it ended."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import threading
import time
from pathlib import Path

from mlflow_fargate.local.container.container_engine import ContainerEngine, EngineFailed, last_words
from mlflow_fargate.local.container.image_store import PulledImage
from mlflow_fargate.local.container.launch import ExecSpec, make_exec_command
from mlflow_fargate.local.container.run_arguments import CLIENT_VARIABLES, KILLED, OUT_OF_MEMORY, ContainerState
from mlflow_fargate.local.container.runner import pass_lines
from mlflow_fargate.local.container.task_runner import OnLine

_START_SECONDS = 60.0
_POLL_SECONDS = 0.1
_MONITORS_FILE = "oom"  # podman's monitor writes it where it was started, if the kernel killed a process
_END_SECONDS = 10.0


class EngineTask:
    """Starts the created container `name`; EngineFailed if it does not start. `folder` exists while it runs.

    `host_port`: the port that its environment names; None if the engine chooses a port to publish.
    """

    def __init__(
        self,
        engine: ContainerEngine,
        name: str,
        on_line: OnLine,
        *,
        host_port: int | None,
        folder: Path,
    ) -> None:
        self.reason: str | None = None
        self._engine = engine
        self._name = name
        self._folder = folder
        self._exit_code: int | None = None
        folder.mkdir(parents=True)
        self._process = subprocess.Popen(
            [*engine.command, "start", "--attach", name],
            cwd=folder,
            env=engine.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # apart: in one pipe, a line of one could get into the middle of another's
            start_new_session=True,
        )
        try:
            state = self._wait_until_started()
        except EngineFailed:
            self._process.kill()
            self._process.wait()
            shutil.rmtree(folder)
            raise
        self.host_port = host_port or state.host_port or 0
        self._counter = _out_of_memory_counter(state.pid)
        self._readers = [
            threading.Thread(target=pass_lines, args=(output, on_line), name=f"log-{name[-8:]}", daemon=True)
            for output in (self._process.stdout, self._process.stderr)
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The process that receives its output, which lasts as long as the container."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout_seconds: float) -> int | None:
        try:
            code = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._look_at_memory()
            return None
        return self._finish(code)

    def terminate(self) -> None:
        quietly(self._engine, "kill", "--signal", "TERM", self._name)

    def kill(self) -> int:
        quietly(self._engine, "kill", self._name)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        return self._finish(KILLED)

    def exec_spec(self, command: str, *, as_root: bool) -> ExecSpec:
        """Returns the engine's `exec`: ECS Exec's agent is root. With a terminal if the user has one."""
        words = make_exec_command(PulledImage(""), command)
        engine = shlex.join([*self._engine.command, "exec", "--interactive", *(("--user", "0") if as_root else ())])
        script = f'test -t 0 && test -t 1 && terminal=--tty; exec {engine} $terminal "$@"'
        return ExecSpec(
            command=("/bin/sh", "-c", script, "exec", self._name, *words) if words else (),
            environment={name: value for name, value in os.environ.items() if CLIENT_VARIABLES.fullmatch(name)},
            working_directory=Path("/"),
            task_pid=self.pid,
        )

    def _wait_until_started(self) -> ContainerState:
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            has_ended = self._process.poll() is not None  # before looking, so that a quick end is not a failure
            state = read_state(self._engine, self._name)
            if state.has_started:
                return state
            if has_ended:
                raise EngineFailed(last_words(self._process.communicate()[1]))
            time.sleep(_POLL_SECONDS)
        raise EngineFailed(f"the container did not start within {_START_SECONDS:g} s")

    def _look_at_memory(self) -> None:
        """Notes if the kernel killed a process: afterwards, some engines do not know why a container ended."""
        if (self._folder / _MONITORS_FILE).exists():
            self.reason = OUT_OF_MEMORY
        with contextlib.suppress(OSError):
            if self._counter and re.search(r"^oom_kill [1-9]", self._counter.read_text(), re.MULTILINE):
                self.reason = OUT_OF_MEMORY

    def _finish(self, code: int) -> int:
        if self._exit_code is not None:
            return self._exit_code
        self._look_at_memory()
        with contextlib.suppress(EngineFailed):
            state = read_state(self._engine, self._name)
            code = KILLED if state.is_running else state.exit_code
            if state.out_of_memory:
                self.reason = OUT_OF_MEMORY
        remove(self._engine, self._name)
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(_END_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._exit_code = code
        return code


def read_state(engine: ContainerEngine, name: str) -> ContainerState:
    """Returns the container's state; EngineFailed if there is none."""
    return ContainerState.of_json(engine.call("inspect", "--type", "container", name))


def remove(engine: ContainerEngine, *names: str) -> None:
    """Removes containers and their volumes. Podman's `rm --force` alone would wait for their stop timeout."""
    quietly(engine, "kill", *names)
    quietly(engine, "rm", "--force", "--volumes", *names)


def quietly(engine: ContainerEngine, *arguments: str) -> None:
    """Calls what can fail because it is already done."""
    with contextlib.suppress(EngineFailed):
        engine.call(*arguments)


def _out_of_memory_counter(pid: int) -> Path | None:
    """Returns the kernel's file that counts what was killed in the container's cgroup; None if it cannot be found."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "memory":
                return Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
            if not controllers and (file := Path(f"/sys/fs/cgroup{path}/memory.events")).exists():
                return file
    return None

"""What the engine needs of whatever runs tasks: processes (runner) or containers (engine_runner)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mlflow_fargate.local.container.image_store import PulledImage
from mlflow_fargate.local.container.launch import ContainerSpec, ExecSpec

OnLine = Callable[[str], None]


class StartedTask(Protocol):
    """A task that was started."""

    @property
    def pid(self) -> int: ...

    @property
    def host_port(self) -> int:
        """The port it listens on, on 127.0.0.1."""

    @property
    def reason(self) -> str | None:
        """Why it ended, in ECS's words; None if its exit code says everything."""

    def wait(self, timeout_seconds: float) -> int | None:
        """Returns its exit code after it ended and its last line was passed on; None if it is still running."""

    def terminate(self) -> None:
        """Sends SIGTERM."""

    def kill(self) -> int:
        """Kills it and everything it started; returns its exit code."""


class TaskRunner(Protocol):
    """Something that can run a task's containers."""

    runs_all_containers: bool  # False: only the main one of each task

    def pull(self, image: str) -> PulledImage:
        """Returns the image, ready to run; TaskFailedToStart with ECS's message if it cannot be pulled."""

    def start(self, spec: ContainerSpec, on_line: OnLine) -> StartedTask:
        """Starts the task and returns it; `on_line` is called with each line it writes."""

    def exec_spec(self, task_id: str, container: str, command: str, *, as_root: bool = True) -> ExecSpec | None:
        """Returns how to run a command in a task's container; None if it is not running."""

    def release(self, task_id: str) -> None:
        """Removes what the task's containers shared, after the last one ended."""

"""Turns an image's configuration and a container definition into what to run on this machine.

That is the environment, command and working folder of the process that runner.py starts. Pure, except that it checks
whether paths exist in the image's root.
"""

from __future__ import annotations

import errno
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.local.container.image_store import PulledImage
from mlflow_fargate.local.task_definition import Container

FULL_DISK = "the disk of this machine is full"
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


class TaskFailedToStart(LocalStackError):
    """The task could not start; the message is its stoppedReason."""

    @classmethod
    def at(cls, step: str, error: OSError | ValueError) -> TaskFailedToStart:
        """Returns the failure of a step, named as ECS does, because of this machine or of texts no process can have."""
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        return cls(f"{step}: {error}{f' ({FULL_DISK})' if is_full else ''}")


@dataclass(frozen=True)
class ContainerSpec:
    """What to run: a container definition, its pulled image, and its secrets, already fetched."""

    task_id: str
    container: Container
    image: PulledImage
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    has_role: bool = False
    cpu_units: int = 0  # the task's; 0 means no limit
    memory_mib: int = 0
    shared_ports: tuple[int, ...] | None = None  # of the network that the task's containers share; None: only one


@dataclass(frozen=True)
class ExecSpec:
    """Another command in a running task, with its environment, for as long as the process `task_pid` runs."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False, hash=False)
    working_directory: Path
    task_pid: int


def make_environment(spec: ContainerSpec, *, tmp: Path, python_folder: Path, port: int) -> dict[str, str]:
    """Returns the process's environment: variables of the image and the task definition, secrets, and real paths.

    Paths are mapped into the image's root only in variables that the image itself defines: only there is '/usr'
    certainly a path and not, for example, the prefix of a URL.
    """
    root = spec.image.root
    own = dict(spec.image.environment)
    given = dict(spec.container.environment)
    environment = {name: _led_into(root, tmp, given.get(name, value)) for name, value in own.items()}
    environment |= {name: value for name, value in given.items() if name not in own}
    environment |= spec.secrets
    path = environment.get("PATH") or _DEFAULT_PATH
    return {
        **environment,
        "PATH": f"{python_folder}:{path}",
        "HOME": str(tmp),
        "TMPDIR": str(tmp),
        "BENTOML_HOME": str(tmp / "bentoml"),
        "BENTOML_HOST": "127.0.0.1",
        "BENTOML_PORT": str(port),
        "FARGATE_WEBHOOK_HOST": "127.0.0.1",
        "FARGATE_WEBHOOK_PORT": str(port),
        "HOST": "127.0.0.1",
        "PORT": str(port),
    }


def make_command(container: Container, image: PulledImage, python_folder: Path) -> tuple[str, ...]:
    """Returns entry point and command, joined as engines do: a task's entry point voids the image's command."""
    entry_point = container.entry_point or image.entrypoint
    command = container.command or (() if container.entry_point else image.command)
    words = [*entry_point, *command]
    if not words:
        raise TaskFailedToStart("CannotCreateContainerError: no command specified")
    led = [_led_path(image.root, word) for word in words]
    if Path(words[0]).is_absolute() and led[0] == words[0] and Path(words[0]).name.startswith("python"):
        led[0] = str(python_folder / "python3")  # the base image's interpreter is this machine's
    return tuple(led)


def make_exec_command(image: PulledImage, command: str) -> tuple[str, ...]:
    """Returns an ECS Exec command's arguments, split as a shell does; paths of the image are mapped to its root."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise TaskFailedToStart(f"the command cannot be parsed: {error}") from error
    return tuple(_led_path(image.root, word) for word in words)


def make_working_directory(container: Container, image: PulledImage) -> Path:
    """Returns the working folder inside the image's root."""
    wanted = container.working_directory or image.working_directory
    folder = image.root / wanted.lstrip("/")
    return folder if folder.is_dir() else image.root


def _led_into(root: Path, tmp: Path, value: str) -> str:
    """Returns the value of an image's variable with its paths (separated by `:`) mapped to paths on this machine."""
    return ":".join(_led_tmp(tmp, part) or _led_path(root, part) for part in value.split(":"))


def _led_path(root: Path, path: str) -> str:
    # '//' is the rest of a URL, and '/' alone is usually a URL's path.
    if not path.startswith("/") or path.startswith("//") or path == "/" or not (root / path[1:]).exists():
        return path
    return str(root / path[1:])


def _led_tmp(tmp: Path, path: str) -> str | None:
    return str(tmp / path[5:]) if path == "/tmp" or path.startswith("/tmp/") else None  # noqa: S108

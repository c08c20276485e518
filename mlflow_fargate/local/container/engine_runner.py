"""Runs each task in a container of podman or docker, with the image as it is in the registry.

    EngineRunner.pull(image)    → PulledImage     pulled by the engine, with the registry's login in a file
    EngineRunner.start(spec)    → EngineTask      created, given its files, started (engine_task)

The container's port is published on a free port of 127.0.0.1. A task with a role must reach the local AWS and MLflow,
which listen on 127.0.0.1 only: it gets this machine's network, and a free port in its environment.

What a killed stack left behind is removed at the next start and by `local down` (engine_leftovers).
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from mlflow_fargate import atomic_files
from mlflow_fargate.local.container.container_engine import ContainerEngine, EngineFailed, make_programs, pack
from mlflow_fargate.local.container.engine_leftovers import (
    FOLDERS,
    LABEL,
    label_of,
    remove_leftovers,
    remove_volumes,
    volumes_of,
    write_record,
)
from mlflow_fargate.local.container.engine_task import EngineTask, read_state, remove
from mlflow_fargate.local.container.image_store import ImageStore, PulledImage
from mlflow_fargate.local.container.launch import FULL_DISK, ContainerSpec, ExecSpec, TaskFailedToStart
from mlflow_fargate.local.container.run_arguments import make_arguments, make_ulimits
from mlflow_fargate.local.container.runner import ProcessRunner, free_port
from mlflow_fargate.local.container.task_runner import OnLine, TaskRunner
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.target import local_state_file

_CACHE_VARIABLE = "MLFLOW_FARGATE_CACHE"
_CACHE_FOLDER = "mlflow-fargate"  # in /tmp of a task with a role
_PULL_SECONDS = 1800.0
_NO_PLATFORM = "image Manifest does not contain descriptor matching platform 'linux/amd64'"  # in ECS's words
_NO_PROGRAM = "the task definition's entry point or command is not a program in the image"
_ADVICE = MappingProxyType(
    {
        "no space left on device": f"{FULL_DISK}; the engine's `system prune` frees space that it uses",
        'exec: "': _NO_PROGRAM,
        "a command that was not found": _NO_PROGRAM,
        "no image found in": _NO_PLATFORM,
        "no matching manifest for": _NO_PLATFORM,
        "unsupported compression": "this engine cannot read layers compressed with zstd (needs Docker 23.0 or newer)",
    }
)


class EngineRunner:
    """Runs tasks by `engine`, with files in `state`; `registry` is the address in images, `password` its login's.

    `of_roles` returns the extra variables of a task with a role.
    """

    runs_all_containers = True

    def __init__(
        self,
        engine: ContainerEngine,
        state: Path,
        *,
        registry: str,
        password: str | None,
        of_roles: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._engine = engine
        self._state = state
        self._registry = registry
        self._labels = {LABEL: label_of(state)}
        self._prefix = volumes_of(state)
        self._networks: set[str] = set()
        self._of_roles = of_roles
        self._pulling = threading.Lock()
        self._changing = threading.Lock()
        self._is_closed = False
        self._images: list[str] = []
        self._running: dict[tuple[str, str], EngineTask] = {}  # by task and container
        self._login_file = state / "engine-login" / "config.json"
        self._login_file.parent.mkdir(parents=True, exist_ok=True)
        write_record(self._engine, self._state, self._images)
        login = {} if password is None else {registry: {"auth": base64.b64encode(f"AWS:{password}".encode()).decode()}}
        atomic_files.write(self._login_file, json.dumps({"auths": login}), mode=0o600)

    def close(self) -> None:
        """Removes the containers of this stack, and its images from the engine."""
        with self._changing:  # what is being created is complete now, and found below
            self._is_closed = True
        self._login_file.unlink(missing_ok=True)
        remove_leftovers(self._state)

    def pull(self, image: str) -> PulledImage:
        if not image.startswith(f"{self._registry}/"):
            raise TaskFailedToStart(
                f"CannotPullContainerError: failed to resolve ref {image}: the local stack only runs images from its "
                f"registry {self._registry}"
            )
        try:
            with self._pulling:  # of two tasks of one image, the second waits and reuses it
                self._pull(image)
            return PulledImage(image.partition("@")[2] or self._digest(image))
        except (EngineFailed, OSError) as error:
            raise TaskFailedToStart(f"CannotPullContainerError: {_advised(error)}") from error

    def start(self, spec: ContainerSpec, on_line: OnLine) -> EngineTask:
        role = dict(self._of_roles()) if spec.has_role else {}
        files = _files_of_role(role)
        host_port = free_port() if spec.has_role else None
        name, step = f"mlflow-fargate-{spec.task_id}-{spec.container.name}", "CannotCreateContainerError"
        try:
            with self._creating():
                network = self._share_network(spec)
                arguments, hidden = make_arguments(
                    spec,
                    labels=self._labels,
                    traits=self._engine.traits,
                    role={**role, _CACHE_VARIABLE: f"/tmp/{_CACHE_FOLDER}"} if files else role,  # noqa: S108
                    host_port=host_port,
                    volumes=f"{self._prefix}-{spec.task_id}",
                    network=network,
                )
                self._engine.call("create", "--name", name, *arguments, environment=hidden)
            step = "CannotStartContainerError"
            if files:
                self._engine.call("cp", "-", f"{name}:/tmp", stdin=pack(files))
            task = EngineTask(
                self._engine,
                name,
                on_line,
                host_port=read_state(self._engine, network).host_port if network else host_port,
                folder=self._state / FOLDERS / name,
            )
        except (EngineFailed, OSError) as error:
            remove(self._engine, name)
            raise TaskFailedToStart(f"{step}: {_advised(error)}") from error
        self._running[spec.task_id, spec.container.name] = task
        return task

    def release(self, task_id: str) -> None:
        for key in [key for key in list(self._running) if key[0] == task_id]:
            self._running.pop(key)
        if _network_of(task_id) in self._networks:
            self._networks.discard(_network_of(task_id))
            remove(self._engine, _network_of(task_id))
        with contextlib.suppress(EngineFailed):  # the next start, or `local down`, tries again
            remove_volumes(self._engine, f"{self._prefix}-{task_id}")

    def exec_spec(self, task_id: str, container: str, command: str, *, as_root: bool = True) -> ExecSpec | None:
        task = self._running.get((task_id, container))
        return task.exec_spec(command, as_root=as_root) if task is not None and task.is_running else None

    def _share_network(self, spec: ContainerSpec) -> str | None:
        """Returns the container whose network those of the task share, which only waits; None if it needs none.

        The network must outlast a container that others depend on, as with ECS's pause container.
        """
        if spec.shared_ports is None or spec.has_role:
            return None
        name = _network_of(spec.task_id)
        if name not in self._networks:
            image = f"localhost/mlflow-fargate-pause:{self._labels[LABEL]}"
            if image not in self._images:
                self._engine.call("import", "-", image, stdin=make_programs())
                self._note_image(image)
            words = ["run", "--detach", "--name", name, "--label", f"{LABEL}={self._labels[LABEL]}"]
            words += ["--pull=never", "--log-driver", "none", "--cap-drop", "ALL"]
            words += make_ulimits((), self._engine.traits)
            words += [word for port in spec.shared_ports for word in ("--publish", f"127.0.0.1::{port}")]
            self._networks.add(name)
            self._engine.call(*words, image, "/pause")
        return name

    def _pull(self, image: str) -> None:
        with self._creating():
            self._note_image(image)
        if self._engine.traits.is_podman:
            options, environment = ["--tls-verify=false", "--authfile", str(self._login_file)], {}
        else:
            # The login's folder replaces the user's settings, which can contain the daemon's address.
            host = self._engine.call("context", "inspect", "--format", "{{.Endpoints.docker.Host}}").strip()
            options, environment = [], {"DOCKER_CONFIG": str(self._login_file.parent), "DOCKER_HOST": host}
        self._engine.call("pull", "--quiet", *options, image, environment=environment, timeout_seconds=_PULL_SECONDS)

    def _digest(self, image: str) -> str:
        digests = json.loads(self._engine.call("image", "inspect", "--format", "{{json .RepoDigests}}", image))
        return str(digests[0]).partition("@")[2]

    @contextlib.contextmanager
    def _creating(self) -> Iterator[None]:
        """While something is made that `close` must find; EngineFailed after it."""
        with self._changing:
            if self._is_closed:
                raise EngineFailed("the local stack is stopping")
            yield

    def _note_image(self, image: str) -> None:
        if image not in self._images:
            self._images.append(image)
            write_record(self._engine, self._state, self._images)


@contextlib.contextmanager
def runner_for(
    engine: ContainerEngine | None, tasks: Path, registry: LocalRegistry, of_roles: Callable[[], Mapping[str, str]]
) -> Iterator[TaskRunner]:
    """Yields what runs tasks, with files in `tasks`: `engine`, or processes if it is None.

    Removes containers at the end, and first what an earlier stack left.
    """
    remove_leftovers(tasks)
    if engine is None:
        yield ProcessRunner(ImageStore(registry.store, registry.address, tasks), tasks, of_roles=of_roles)
        return
    runner = EngineRunner(engine, tasks, registry=registry.address, password=registry.password, of_roles=of_roles)
    try:
        yield runner
    finally:
        runner.close()


def _network_of(task_id: str) -> str:
    return f"mlflow-fargate-network-{task_id}"


def _files_of_role(role: Mapping[str, str]) -> dict[str, bytes]:
    """Returns the file in which `fargate:/local` finds the stack, for a container's cache directory."""
    if _CACHE_VARIABLE not in role:
        return {}
    state = json.loads(local_state_file(Path(role[_CACHE_VARIABLE])).read_text(encoding="utf-8"))
    # A container does not see the stack's process, but always its first own one.
    content = json.dumps({**state, "pid": 1, "process_start": None}).encode()
    return {str(local_state_file(Path(_CACHE_FOLDER))): content}


def _advised(error: Exception) -> str:
    said = str(error)
    advice = next((text for words, text in _ADVICE.items() if words in said.lower()), None)
    return f"{said} ({advice})" if advice else said

"""Which engine runs tasks: programs in PATH that behave like engines that work, or do not."""

from __future__ import annotations

import errno
import io
import shutil
import subprocess
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_fargate import atomic_files
from mlflow_fargate.cli.local import local
from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.local.container import engine_leftovers
from mlflow_fargate.local.container.container_engine import (
    ContainerEngine,
    EngineChoice,
    choose_engine,
    make_programs,
)
from mlflow_fargate.local.container.engine_leftovers import remove_leftovers
from mlflow_fargate.local.container.engine_runner import EngineRunner
from mlflow_fargate.local.container.image_store import PulledImage
from mlflow_fargate.local.container.launch import ContainerSpec, TaskFailedToStart
from mlflow_fargate.local.task_definition import Container
from support.container_engine import Programs

NO_DAEMON = "echo 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock.' >&2; exit 1"
NO_PERMISSION = "echo 'permission denied while trying to connect to the Docker daemon socket' >&2; exit 1"
WORKS = "exit 0"
IMAGE = f"127.0.0.1:5000/models@sha256:{'0' * 64}"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Returns a function that puts an engine into an otherwise empty PATH: its version, and what `run` does."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name: str, version: str, run: str, other: str = "exit 0") -> None:
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\nfor word; do case "$word" in\n--version) echo "{version}"; exit 0;;\nrun) {run};;\n'
            f"import|rmi) {other};;\nesac; done\n"
        )
        program.chmod(0o755)

    return put


def test_without_an_engine_tasks_are_processes(programs: Programs) -> None:
    choice = choose_engine("auto")

    assert choice.engine is None
    assert choice.description == "processes, without isolation (podman: not installed; docker: not installed)"


def test_a_docker_client_without_its_daemon_is_not_chosen(programs: Programs) -> None:
    programs("docker", "Docker version 28.2.2", WORKS, other=NO_DAEMON)

    assert choose_engine("auto").engine is None
    assert "docker: Cannot connect to the Docker daemon" in choose_engine("auto").description


def test_podman_comes_before_docker(programs: Programs) -> None:
    programs("podman", "podman version 4.3.1", WORKS)
    programs("docker", "Docker version 28.2.2", WORKS)

    choice = choose_engine("auto")

    assert choice.engine is not None
    assert choice.engine.name == "podman"
    assert choice.description == "containers (podman version 4.3.1)"


def test_docker_is_chosen_if_podman_cannot_run_a_container(programs: Programs) -> None:
    programs("podman", "podman version 4.3.1", "echo 'Error: cannot set up namespace' >&2; exit 125")
    programs("docker", "Docker version 28.2.2", WORKS)

    choice = choose_engine("auto")

    assert choice.engine is not None
    assert (choice.engine.name, choice.description) == ("docker", "containers (Docker version 28.2.2)")


def test_a_docker_command_that_is_podman_gets_podmans_options(programs: Programs) -> None:
    programs("docker", "podman version 5.4.2", WORKS)

    engine = choose_engine("docker").engine

    assert engine is not None
    assert engine.traits.is_podman


def test_podman_uses_the_runtime_that_works(programs: Programs) -> None:
    programs(
        "podman", "podman version 4.3.1", '[ "$2" = runc ] || { echo "crun: cgroups in hybrid mode" >&2; exit 1; }'
    )

    choice = choose_engine("podman")

    assert choice.engine is not None
    assert choice.engine.command[1:] == ("--runtime", "runc")
    assert choice.description == "containers (podman version 4.3.1 --runtime runc)"


@pytest.mark.parametrize(
    "run",
    [
        'case "$*" in *--cpus*) echo "the requested cgroup controller cpu is not available" >&2; exit 126;; esac',
        'case "$*" in *--cpus*) echo "WARNING: Your kernel does not support CPU limits. Discarded." >&2;; esac',
        'case "$*" in *--memory*) echo "Your kernel does not support memory limit capabilities" >&2; exit 125;; esac',
    ],
    ids=["an error", "a warning", "no memory cgroup"],
)
def test_a_limit_that_the_machine_cannot_enforce_is_left_out_and_shown(programs: Programs, run: str) -> None:
    programs("podman", "podman version 4.3.1", run)
    limits, said = ((), "memory and cpu") if "--memory" in run else (("memory",), "cpu")

    choice = choose_engine("auto")

    assert choice.engine is not None
    assert choice.engine.traits.limits == limits
    assert choice.description.endswith(f"; this machine cannot limit their {said})")


def test_an_engine_without_permission_is_an_error_if_it_was_requested(programs: Programs) -> None:
    programs("docker", "Docker version 28.2.2", WORKS, other=NO_PERMISSION)

    with pytest.raises(LocalStackError, match="docker: permission denied while trying to connect") as raised:
        choose_engine("docker")

    assert raised.value.hint is not None
    assert "--engine process" in raised.value.hint


def test_a_stack_with_a_requested_engine_that_is_missing_does_not_start(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_FARGATE_CACHE", str(tmp_path / "cache"))

    done = CliRunner().invoke(local, ["up", "--engine", "podman"])

    assert done.exit_code == 1
    assert "podman: not installed" in done.output
    assert not (tmp_path / "cache" / "local" / "stack.json").exists()


def test_processes_are_used_if_requested_whatever_is_installed(programs: Programs) -> None:
    programs("podman", "podman version 4.3.1", WORKS)

    assert choose_engine("process").engine is None


def test_the_probe_is_a_program_that_linux_runs(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(make_programs())) as archive:
        packed = archive.extractfile("probe")
        assert packed is not None
        (tmp_path / "probe").write_bytes(packed.read())
    shutil.copymode("/bin/sh", tmp_path / "probe")

    assert subprocess.run([tmp_path / "probe"], env={}, check=False).returncode == 0
    assert (tmp_path / "probe").stat().st_size < 200


def test_a_disk_that_fills_up_during_a_pull_is_reported_and_a_later_pull_works(
    programs: Programs, tmp_path: Path
) -> None:
    programs("podman", "podman version 4.3.1", WORKS)
    engine = choose_engine("podman").engine
    assert engine is not None
    program = Path(engine.command[0])
    works = program.read_text()
    said = 'writing blob: adding layer with blob "sha256:35": processing tar file(write /big: no space left on device)'
    program.write_text(f"#!/bin/sh\necho 'Error: {said}: exit status 1' >&2; exit 125\n")

    with closing(EngineRunner(engine, tmp_path / "tasks", registry="127.0.0.1:5000", password=None)) as runner:
        with pytest.raises(TaskFailedToStart, match=r"CannotPullContainerError: .*no space left on device") as raised:
            runner.pull(IMAGE)
        assert "the disk of this machine is full; the engine's `system prune`" in str(raised.value)
        program.write_text(works)

        assert runner.pull(IMAGE).digest == IMAGE.partition("@")[2]


@pytest.fixture
def podman(programs: Programs) -> ContainerEngine:
    """Returns an engine whose every command succeeds."""
    programs("podman", "podman version 4.3.1", WORKS)
    return found(choose_engine("podman"))


def found(choice: EngineChoice) -> ContainerEngine:
    assert choice.engine is not None
    return choice.engine


def test_a_full_disk_of_the_stack_itself_is_reported_too(
    podman: ContainerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with closing(EngineRunner(podman, tmp_path / "tasks", registry="127.0.0.1:5000", password=None)) as runner:
        monkeypatch.setattr(atomic_files, "write", fail)

        with pytest.raises(TaskFailedToStart, match=r"CannotPullContainerError: .*the disk of this machine is full"):
            runner.pull(IMAGE)


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
def test_a_variable_that_no_process_can_have_is_reported(value: str, podman: ContainerEngine, tmp_path: Path) -> None:
    container = Container.of_json({"name": "model", "image": IMAGE, "environment": [{"name": "A", "value": value}]})

    with (
        closing(EngineRunner(podman, tmp_path / "tasks", registry="127.0.0.1:5000", password=None)) as runner,
        pytest.raises(TaskFailedToStart, match="CannotCreateContainerError: podman cannot be called with these texts"),
    ):
        runner.start(ContainerSpec("task", container, PulledImage("")), print)


def test_what_a_killed_stack_left_is_not_forgotten_when_the_next_one_uses_another_engine(
    programs: Programs, podman: ContainerEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tasks, removed = tmp_path / "tasks", tmp_path / "removed"
    killed = EngineRunner(podman, tasks, registry="127.0.0.1:5000", password=None)
    killed.pull(IMAGE)
    programs("podman", "podman version 4.3.1", WORKS, other=f'echo "$*" >> {removed}')
    works = Path(podman.command[0]).rename(tmp_path / "uninstalled")
    programs("docker", "Docker version 28.2.2", WORKS)

    remove_leftovers(tasks)
    assert "cannot be removed: podman: No such file or directory" in caplog.text
    EngineRunner(found(choose_engine("docker")), tasks, registry="127.0.0.1:5000", password=None).close()
    works.rename(podman.command[0])
    remove_leftovers(tasks)

    assert removed.read_text() == f"rmi {IMAGE}\n"
    assert not list(tasks.glob("engine-*.json"))


def test_a_stack_stops_without_an_error_while_local_down_removes_the_same(
    podman: ContainerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = EngineRunner(podman, tmp_path / "tasks", registry="127.0.0.1:5000", password=None)
    both_have_read = threading.Barrier(2, timeout=30)
    remove_containers = engine_leftovers._remove_containers

    def wait_first(*arguments: Any) -> None:
        both_have_read.wait()
        remove_containers(*arguments)

    monkeypatch.setattr(engine_leftovers, "_remove_containers", wait_first)
    with ThreadPoolExecutor(2) as pool:
        endings = [pool.submit(runner.close), pool.submit(remove_leftovers, tmp_path / "tasks")]

        assert [ending.result() for ending in endings] == [None, None]

"""Tasks as processes: unpacking of images, the environment of a process, and cleanup of everything it started."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlflow_fargate.local.container.image_store import CannotPull, ImageStore
from mlflow_fargate.local.container.launch import ContainerSpec, TaskFailedToStart
from mlflow_fargate.local.container.runner import ProcessRunner, TaskProcess
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.local.task_definition import Container
from support.registry import HOST_PYTHON, make_tar

PushImage = Callable[..., str]


@pytest.fixture
def images(registry: LocalRegistry, tmp_path: Path) -> ImageStore:
    return ImageStore(registry.store, registry.address, tmp_path / "state")


@pytest.fixture
def runner(images: ImageStore, tmp_path: Path) -> ProcessRunner:
    return ProcessRunner(images, tmp_path / "state", {"LANG": "C.UTF-8"}, lambda: {"AWS_ENDPOINT_URL": "http://aws"})


@pytest.fixture
def start(runner: ProcessRunner) -> Iterator[Callable[..., tuple[TaskProcess, list[str]]]]:
    """Returns a function that starts a task of an image; the task ends with the test."""
    started: list[TaskProcess] = []

    def start_task(
        image: str, secrets: dict[str, str] | None = None, *, has_role: bool = False, **container: Any
    ) -> tuple[TaskProcess, list[str]]:
        lines: list[str] = []
        definition = Container.of_json({"name": "model", "image": image, **container})
        spec = ContainerSpec(os.urandom(8).hex(), definition, runner.pull(image), secrets or {}, has_role=has_role)
        process = runner.start(spec, lines.append)
        started.append(process)
        return process, lines

    yield start_task
    for process in started:
        process.kill()


def ask(process: TaskProcess, path: str = "/") -> dict[str, Any]:
    until = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{process.host_port}{path}", timeout=5) as answer:
                content: dict[str, Any] = json.load(answer)
                return content
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the expected state was not reached in time"
        time.sleep(0.02)


# Images on disk


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_layers_are_unpacked_on_top_of_each_other(push_image: PushImage, images: ImageStore, compression: str) -> None:
    image = push_image({"a/x": "1", "a/y": "1"}, {"a/x": "2", "b": "2"}, compression=compression)

    root = images.pull(image).root

    assert {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()} == {
        "a/x": "2",
        "a/y": "1",
        "b": "2",
    }


def test_whiteouts_delete_files_and_the_contents_of_folders(push_image: PushImage, images: ImageStore) -> None:
    image = push_image(
        {"gone": "1", "kept": "1", "emptied/old": "1"}, {".wh.gone": "", "emptied/.wh..wh..opq": "", "emptied/new": "2"}
    )

    root = images.pull(image).root

    assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()) == [
        "emptied/new",
        "kept",
    ]


def test_a_second_pull_unpacks_nothing(push_image: PushImage, images: ImageStore) -> None:
    image = push_image({"a": "1"})
    first = images.pull(image).root / "a"
    inode = first.stat().st_ino

    assert (images.pull(image).root / "a").stat().st_ino == inode


@pytest.mark.parametrize("name", ["../escaped", "/../escaped"])
def test_a_layer_cannot_write_outside_its_folder(push_image: PushImage, images: ImageStore, name: str) -> None:
    image = push_image({name: "evil"})

    with pytest.raises(CannotPull, match="failed to register layer"):
        images.pull(image)


def test_a_link_to_outside_the_image_is_refused(push_image: PushImage, images: ImageStore) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        link = tarfile.TarInfo("way-out")
        link.type, link.linkname = tarfile.SYMTYPE, "../../../.."
        archive.addfile(link)

    with pytest.raises(CannotPull, match="way-out"):
        images.pull(push_image(tars=(packed.getvalue(),)))


def test_nothing_is_written_through_a_link_of_a_lower_layer(push_image: PushImage, images: ImageStore) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        link = tarfile.TarInfo("folder")
        link.type, link.linkname = tarfile.SYMTYPE, "real"
        archive.addfile(link)
    # Both layers are `tars`, because those come after `layers`.
    upper = io.BytesIO()
    with tarfile.open(fileobj=upper, mode="w") as archive:
        entry = tarfile.TarInfo("folder/file")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))

    root = images.pull(push_image(tars=(packed.getvalue(), upper.getvalue()))).root

    assert not (root / "folder").is_symlink()
    assert (root / "folder" / "file").read_text() == "x"
    assert not (root / "real").exists()


def test_a_corrupt_layer_is_refused_and_leaves_nothing_behind(
    push_image: PushImage, images: ImageStore, registry: LocalRegistry, tmp_path: Path
) -> None:
    image = push_image({"a": "1"})
    manifest = json.loads(registry.store.manifest("models", "latest").body)
    blob = registry.store.blob("models", manifest["layers"][0]["digest"])
    blob.write_bytes(blob.read_bytes() + b"more")

    with pytest.raises(CannotPull):
        images.pull(image)
    assert list((tmp_path / "state" / "layers").iterdir()) == []


def test_on_a_real_base_image_only_the_layers_built_by_mlflow_fargate_run(
    push_image: PushImage, images: ImageStore
) -> None:
    image = push_image({"base": "1"}, {"ours": "2"}, labels={}, annotated=(1,))

    pulled = images.pull(image)

    assert [path.name for path in pulled.root.iterdir()] == ["ours"]
    assert "1 of this image's 2 layers are used here" in pulled.notes[0]


def test_a_process_does_not_get_the_files_of_this_machines_base_image(
    push_image: PushImage, images: ImageStore
) -> None:
    base = make_tar({"usr/local/bin/python3": "not run", "lib": None})
    diff_id = f"sha256:{hashlib.sha256(base).hexdigest()}"

    image = push_image({"ours": "2"}, tars=(base,), labels={**HOST_PYTHON, "mlflow-fargate.base.diff-id": diff_id})

    assert [path.name for path in images.pull(image).root.iterdir()] == ["ours"]


def test_an_image_built_by_another_tool_cannot_run(push_image: PushImage, runner: ProcessRunner) -> None:
    with pytest.raises(TaskFailedToStart, match="was not built by mlflow-fargate"):
        runner.pull(push_image({"a": "1"}, labels={}))


def test_a_missing_image_is_reported_with_the_message_of_ecs(registry: LocalRegistry, runner: ProcessRunner) -> None:
    image = f"{registry.address}/models@sha256:{'0' * 64}"

    with pytest.raises(TaskFailedToStart) as refused:
        runner.pull(image)
    assert str(refused.value) == (
        "CannotPullContainerError: pull image manifest has been retried 1 time(s): "
        f"failed to resolve ref {image}: {image}: not found"
    )


# Processes


def test_a_task_only_sees_its_image_and_its_settings(
    push_image: PushImage, start: Callable[..., tuple[TaskProcess, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the stack")
    process, _ = start(
        push_image(),
        secrets={"API_KEY": "hush"},
        environment=[{"name": "VERSION", "value": "7"}, {"name": "PATH_PREFIX", "value": "/opt"}],
    )

    answer = ask(process)
    environment = answer["environment"]
    root = Path(answer["folder"]).parents[2]

    assert (answer["version"], answer["key"]) == ("7", "hush")
    assert environment["PYTHONPATH"] == f"/opt/app/site:{root}/opt/app/src"  # the image has no /opt/app/site
    assert environment["PATH_PREFIX"] == "/opt"
    assert environment["HOME"].endswith("/tmp")
    assert environment["TMPDIR"] == environment["HOME"]
    assert environment["LANG"] == "C.UTF-8"
    assert "AWS_SECRET_ACCESS_KEY" not in environment
    assert not any(str(Path(sys.prefix)) in value for value in environment.values())


def test_a_task_uses_this_python_but_not_its_packages(
    push_image: PushImage, start: Callable[..., tuple[TaskProcess, list[str]]]
) -> None:
    script = "import sys, importlib.util as u; print(sys.version_info[:2], u.find_spec('moto'), u.find_spec('pip'))"
    process, lines = start(push_image(Entrypoint=["/usr/local/bin/python3", "-c", script]))

    assert process.wait(10) == 0
    assert lines == [f"{sys.version_info[:2]} None None"]


def test_output_lines_and_exit_code_are_reported(
    push_image: PushImage, start: Callable[..., tuple[TaskProcess, list[str]]]
) -> None:
    process, lines = start(push_image(), environment=[{"name": "MODE", "value": "crash"}])

    assert process.wait(10) == 1
    assert lines == ["version None starts", "boom: the model cannot be loaded"]


def test_an_unknown_command_exits_with_127(
    push_image: PushImage, start: Callable[..., tuple[TaskProcess, list[str]]]
) -> None:
    process, lines = start(push_image(), entryPoint=["no-such-program"])

    assert process.wait(10) == 127
    assert "no-such-program" in lines[0]


def test_an_image_for_another_python_is_refused(
    push_image: PushImage, start: Callable[..., tuple[TaskProcess, list[str]]]
) -> None:
    with pytest.raises(TaskFailedToStart, match=r"is for Python 2\.7\.18, but this machine runs Python"):
        start(push_image(Env=["PYTHON_VERSION=2.7.18"]))


STUBBORN_FAMILY = """
import os, signal, subprocess, sys, time
if len(sys.argv) > 1:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("child", os.getpid(), flush=True)
    time.sleep(600)
subprocess.Popen([sys.executable, __file__, "child"], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: print("term", flush=True) or sys.exit(3))
time.sleep(600)
"""


def child_pid(lines: list[str]) -> int:
    wait_for(lambda: any(line.startswith("child") for line in lines))
    return int(next(line for line in lines if line.startswith("child")).split()[1])


def test_terminating_a_task_ends_children_in_other_sessions(
    push_image: PushImage, start: Callable[..., tuple[TaskProcess, list[str]]]
) -> None:
    process, lines = start(push_image({"opt/app/src/server.py": STUBBORN_FAMILY}))
    child = child_pid(lines)

    process.terminate()

    assert process.wait(10) == 3
    assert lines[-1] == "term"
    assert has_ended(child)


def test_killing_a_task_ends_processes_that_ignore_sigterm(
    push_image: PushImage, start: Callable[..., tuple[TaskProcess, list[str]]]
) -> None:
    process, lines = start(push_image({"opt/app/src/server.py": STUBBORN_FAMILY}))
    child = child_pid(lines)

    assert process.kill() == 128 + signal.SIGKILL
    assert has_ended(child)


def test_killing_the_init_process_ends_everything_it_started(
    push_image: PushImage, start: Callable[..., tuple[TaskProcess, list[str]]]
) -> None:
    process, lines = start(push_image({"opt/app/src/server.py": STUBBORN_FAMILY}))
    child = child_pid(lines)

    os.kill(process.pid, signal.SIGKILL)

    assert process.wait(10) == 128 + signal.SIGKILL
    assert has_ended(child)


KILLED_STACK = """
import sys, time
from pathlib import Path
from mlflow_fargate.local.container.runner import ProcessRunner
from mlflow_fargate.local.container.launch import ContainerSpec
from mlflow_fargate.local.container.image_store import ImageStore
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.local.task_definition import Container
folder, image = Path(sys.argv[1]), sys.argv[3]
registry = LocalRegistry(Path(sys.argv[2]), password=None)
runner = ProcessRunner(ImageStore(registry.store, image.split("/")[0], folder), folder, {})
spec = ContainerSpec("orphan", Container.of_json({"name": "model", "image": image}), runner.pull(image))
runner.start(spec, lambda line: print(line, flush=True))
time.sleep(600)
"""


@pytest.mark.slow
def test_a_stack_killed_with_kill_9_leaves_no_orphans(
    push_image: PushImage, registry_folder: Path, tmp_path: Path
) -> None:
    image = push_image({"opt/app/src/server.py": STUBBORN_FAMILY})
    stack = subprocess.Popen(
        [sys.executable, "-c", KILLED_STACK, str(tmp_path), str(registry_folder), image],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert stack.stdout is not None
    child = int(stack.stdout.readline().split()[1])

    stack.kill()
    stack.wait()

    wait_for(lambda: has_ended(child), 5)
    stack.stdout.close()


@pytest.mark.parametrize("has_role", [True, False])
def test_only_a_task_with_a_role_gets_the_address_of_aws(
    push_image: PushImage, start: Callable[..., tuple[TaskProcess, list[str]]], has_role: bool
) -> None:
    process, _ = start(push_image(), has_role=has_role)

    assert ("AWS_ENDPOINT_URL" in ask(process)["environment"]) is has_role


@pytest.mark.parametrize(
    ("place", "step"),
    [
        ("backports.tarfile.TarFile.extractall", "CannotPullContainerError"),
        ("os.link", "CannotPullContainerError"),
        ("venv.EnvBuilder.create", "CannotStartContainerError"),
    ],
)
def test_a_full_disk_is_reported_and_a_later_start_works(
    place: str,
    step: str,
    push_image: PushImage,
    start: Callable[..., tuple[TaskProcess, list[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    image = push_image({"opt/hello": "hi"})
    place = place if sys.version_info < (3, 11, 4) else place.removeprefix("backports.")
    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(TaskFailedToStart, match=rf"{step}: .*\(the disk of this machine is full\)"):
            start(image, entryPoint=["/bin/true"])

    task, _ = start(image, entryPoint=["/bin/true"])
    assert task.wait(30) == 0


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
def test_a_variable_that_no_process_can_have_is_reported(
    value: str, push_image: PushImage, start: Callable[..., tuple[TaskProcess, list[str]]]
) -> None:
    with pytest.raises(TaskFailedToStart, match="CannotStartContainerError: "):
        start(push_image({"a": "b"}), entryPoint=["/bin/true"], environment=[{"name": "A", "value": value}])

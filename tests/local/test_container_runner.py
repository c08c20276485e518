"""Tasks as containers of a real engine: what they can do, how they end, and that none is left behind."""

from __future__ import annotations

import http.server
import json
import os
import platform
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlflow_fargate.local.container.container_engine import ContainerEngine, EngineFailed, find_engine, make_programs
from mlflow_fargate.local.container.engine_leftovers import LABEL, label_of, remove_leftovers
from mlflow_fargate.local.container.engine_runner import EngineRunner
from mlflow_fargate.local.container.engine_task import EngineTask
from mlflow_fargate.local.container.launch import ContainerSpec, TaskFailedToStart
from mlflow_fargate.local.engine.container_health import ContainerProbe
from mlflow_fargate.local.registry.base_image import BASE_REPOSITORY
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.local.task_definition import Container, HealthCheck

pytestmark = pytest.mark.slow

INDEX = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}

Start = Callable[..., tuple[EngineTask, list[str]]]

HARDENED = {
    "user": "65532",
    "readonlyRootFilesystem": True,
    "mountPoints": [
        {"sourceVolume": "tmp", "containerPath": "/tmp"},
        {"sourceVolume": "data", "containerPath": "/data", "readOnly": True},
    ],
    "linuxParameters": {"capabilities": {"drop": ["ALL"]}},
}
# Answers each request with what it sees.
SERVER = """
import http.server, json, os, pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
def can_write(path):
    try:
        pathlib.Path(path).write_text("x")
    except OSError as error:
        return error.strerror
    return True
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        status = pathlib.Path("/proc/self/status").read_text()
        body = json.dumps({"user": os.getuid(), "environment": dict(os.environ), "root": can_write("/x"),
                           "tmp": can_write("/tmp/x"), "data": can_write("/data/x"), "folder": os.getcwd(),
                           "capabilities": status.split("CapBnd:")[1].split()[0]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
print("ready", flush=True)
host, port = os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", 3000))
http.server.ThreadingHTTPServer((host, port), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a cache directory with the state of a stack."""
    tmp_path = tmp_path_factory.mktemp("cache")
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "stack.json").write_text(json.dumps({"pid": os.getpid(), "secret_access_key": "k3y"}))
    return tmp_path


@pytest.fixture(scope="module")
def runner(container_engine: ContainerEngine, registry: LocalRegistry, cache: Path) -> Iterator[EngineRunner]:
    tasks = cache / "local" / "tasks"
    role = {"AWS_SECRET_ACCESS_KEY": "k3y", "MLFLOW_FARGATE_CACHE": str(cache)}
    made = EngineRunner(container_engine, tasks, registry=registry.address, password=None, of_roles=lambda: role)
    yield made
    made.close()
    assert containers_of(container_engine, tasks) == []


@pytest.fixture
def start(runner: EngineRunner, python_image: str) -> Start:
    """Returns a function that starts a program as a task; `runner` removes its container."""

    def start_task(
        program: str,
        secrets: dict[str, str] | None = None,
        *,
        has_role: bool = False,
        memory_mib: int = 0,
        task_id: str | None = None,
        shared_ports: tuple[int, ...] | None = None,
        **container: Any,
    ) -> tuple[EngineTask, list[str]]:
        lines: list[str] = []
        definition = Container.of_json(
            {"name": "model", "image": python_image, "command": ["python3", "-c", program], **container}
        )
        spec = ContainerSpec(
            task_id or os.urandom(8).hex(),
            definition,
            runner.pull(definition.image),
            secrets or {},
            has_role=has_role,
            memory_mib=memory_mib,
            shared_ports=shared_ports,
        )
        return runner.start(spec, lines.append), lines

    return start_task


def containers_of(engine: ContainerEngine, tasks: Path) -> list[str]:
    """Returns the containers of the stack with this folder, running or not."""
    return engine.call("ps", "--all", "--quiet", "--filter", f"label={LABEL}={label_of(tasks)}").split()


def ask(task: EngineTask) -> dict[str, Any]:
    until = time.monotonic() + 15
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{task.host_port}/", timeout=5) as answer:
                content: dict[str, Any] = json.load(answer)
                return content
        except OSError:
            assert time.monotonic() < until, "the container did not answer in time"
            time.sleep(0.1)


def end(task: EngineTask, seconds: float = 30) -> int:
    until = time.monotonic() + seconds
    while (code := task.wait(0.2)) is None:
        assert time.monotonic() < until, "the container did not end in time"
    return code


def test_a_task_is_as_restricted_as_on_fargate(start: Start) -> None:
    environment = [{"name": "VERSION", "value": "two\nlines"}]
    ports = [{"containerPort": 3000}]
    task, lines = start(SERVER, {"API_KEY": "s3cret 'x'"}, environment=environment, portMappings=ports, **HARDENED)

    seen = ask(task)
    assert seen["user"] == 65532
    assert seen["root"] == "Read-only file system"
    assert seen["data"] == "Read-only file system"
    assert seen["tmp"] is True
    assert int(seen["capabilities"], 16) == 0
    assert seen["environment"]["VERSION"] == "two\nlines"
    assert seen["environment"]["API_KEY"] == "s3cret 'x'"
    assert "MLFLOW_FARGATE_CACHE" not in seen["environment"]
    assert lines == ["ready"]
    task.terminate()
    assert end(task) == 7
    assert task.reason is None


@pytest.mark.exhaustive
@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_podman_runs_tasks_with_either_runtime(
    runtime: str, registry: LocalRegistry, python_image: str, tmp_path: Path
) -> None:
    try:
        engine = find_engine("podman", [("--runtime", runtime)])
    except EngineFailed as error:
        pytest.skip(f"podman does not run containers with {runtime} here: {error}")
    with closing(EngineRunner(engine, tmp_path, registry=registry.address, password=None)) as runner:
        definition = Container.of_json(
            {"name": "model", "image": python_image, "command": ["python3", "-c", "exit(5)"], **HARDENED}
        )
        lines: list[str] = []
        task = runner.start(ContainerSpec("task", definition, runner.pull(python_image), memory_mib=64), lines.append)

        assert end(task) == 5


def test_this_machines_proxy_is_not_in_a_container(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy.test")
    task, lines = start("import os; print(sorted(os.environ))")

    assert end(task) == 0
    assert "HTTPS_PROXY" not in lines[0]


def test_every_line_before_the_end_arrives(start: Start) -> None:
    task, lines = start("for n in range(2000): print(n)\nraise SystemExit('no model')")

    assert end(task) == 1
    # What it wrote to stdout and to stderr comes through two pipes, as on Fargate.
    assert sorted(lines) == sorted([*map(str, range(2000)), "no model"])


@pytest.mark.parametrize("who", ["the first process", "a child"])
def test_a_task_that_needs_too_much_memory_is_out_of_memory(start: Start, runner: EngineRunner, who: str) -> None:
    eat = "x = [bytearray(1 << 20) for _ in range(500)]"
    supervise = (
        f"import subprocess, sys, time\nprint(subprocess.run([sys.executable, '-c', {eat!r}]).returncode)\n"
        "time.sleep(1)\nsys.exit(1)"
    )
    task, lines = start(eat if who == "the first process" else supervise, memory_mib=64)

    assert end(task) == (137 if who == "the first process" else 1)
    assert task.reason == "OutOfMemoryError: Container killed due to memory usage"
    assert not Path("oom").exists()  # podman's monitor leaves such a file where it was started
    assert not list((runner._state / "containers").iterdir())
    assert lines == ([] if who == "the first process" else ["-9"])


@pytest.mark.parametrize("how", ["a command outside", "its own exit code"])
def test_a_task_that_was_killed_with_free_memory_is_not_out_of_memory(
    start: Start, runner: EngineRunner, how: str
) -> None:
    program = "raise SystemExit(137)" if how == "its own exit code" else "import time\ntime.sleep(60)"
    task, _ = start(program, memory_mib=64, task_id="killed")

    if how == "a command outside":
        runner._engine.call("kill", *names_of(runner, "killed"))

    assert end(task) == 137
    assert task.reason is None


def test_a_task_that_ignores_sigterm_is_killed(start: Start) -> None:
    # The first process of a container has no default signal handlers.
    task, lines = start("import time\nprint('up', flush=True)\ntime.sleep(60)")

    task.terminate()

    assert task.wait(1) is None
    assert task.kill() == 137
    assert task.reason is None
    assert lines == ["up"]


@pytest.mark.parametrize("path", ["/nope", "nope", "/etc/passwd"])
def test_an_entry_point_that_is_not_in_the_image_is_reported(start: Start, path: str) -> None:
    with pytest.raises(TaskFailedToStart, match=rf"CannotStartContainerError: .*{path}.*is not a program in the image"):
        start("print('never')", entryPoint=[path])


def test_an_image_for_another_cpu_says_so_in_its_log(start: Start, push_image: Callable[..., str]) -> None:
    """As on Fargate, whose runtime writes the same line."""
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[platform.machine()]
    image = push_image(tars=(make_programs(other),), Entrypoint=["/probe"], Env=[], WorkingDir="/")

    task, lines = start("", image=image, command=[])

    assert end(task) != 0
    assert any("exec format error" in line for line in lines)


def test_an_image_without_this_cpu_cannot_be_pulled(
    runner: EngineRunner, registry: LocalRegistry, python_image: str
) -> None:
    digest = registry.store.put_manifest(
        BASE_REPOSITORY, "other", json.dumps({**INDEX, "manifests": [other_cpu(registry)]}).encode(), INDEX["mediaType"]
    )

    with pytest.raises(TaskFailedToStart, match="image Manifest does not contain descriptor matching platform 'linux/"):
        runner.pull(f"{registry.address}/{BASE_REPOSITORY}@{digest}")


def other_cpu(registry: LocalRegistry) -> dict[str, Any]:
    """Returns an index's entry that calls the base image one for s390x."""
    image = registry.store.images(BASE_REPOSITORY)[0]
    body = registry.store.manifest(BASE_REPOSITORY, image.digest).body
    platform_of = {"os": "linux", "architecture": "s390x"}
    return {"mediaType": image.media_type, "digest": image.digest, "size": len(body), "platform": platform_of}


def test_an_image_that_does_not_exist_cannot_be_pulled(runner: EngineRunner, registry: LocalRegistry) -> None:
    with pytest.raises(TaskFailedToStart, match="CannotPullContainerError: "):
        runner.pull(f"{registry.address}/models@sha256:{'0' * 64}")
    with pytest.raises(TaskFailedToStart, match="only runs images from its registry"):
        runner.pull("docker.io/library/alpine:latest")


def test_a_task_with_a_role_reaches_servers_on_this_machine(start: Start) -> None:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

    program = (
        "import json, os, pathlib, urllib.request\n"
        "print(urllib.request.urlopen(os.environ['ADDRESS']).status)\n"
        "cache = pathlib.Path(os.environ['MLFLOW_FARGATE_CACHE'])\n"
        "print(json.loads((cache / 'local' / 'stack.json').read_text()))\n"
        "(cache / 'models').mkdir()\n"
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = [{"name": "ADDRESS", "value": f"http://127.0.0.1:{server.server_port}"}]
        task, lines = start(program, has_role=True, environment=environment, **HARDENED)
        code = end(task)
        server.shutdown()

    assert lines == ["204", "{'pid': 1, 'secret_access_key': 'k3y', 'process_start': None}"]
    assert code == 0


def test_a_task_with_a_role_listens_on_the_port_in_its_environment(start: Start) -> None:
    task, _ = start(SERVER, has_role=True, **HARDENED)

    assert ask(task)["environment"]["PORT"] == str(task.host_port)
    assert ask(task)["environment"]["AWS_SECRET_ACCESS_KEY"] == "k3y"


def test_a_command_runs_in_the_container_as_root(
    start: Start, runner: EngineRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTAINERS_CONF", "/dev/null")
    monkeypatch.setenv("PASSWORD", "s3cret")
    task, _ = start(SERVER, {"API_KEY": "s3cret"}, **HARDENED)
    name, _ = list(runner._running)[-1]
    spec = runner.exec_spec(name, "model", "sh -c 'read line; echo \"$API_KEY\" $line; exit 3'")
    assert spec is not None

    done = subprocess.run(
        spec.command, input="typed\n", capture_output=True, text=True, env=dict(spec.environment), check=False
    )

    assert (done.stdout, done.returncode) == ("s3cret typed\n", 3)
    assert spec.environment["CONTAINERS_CONF"] == "/dev/null", "not the engine that runs the container"
    assert "PASSWORD" not in spec.environment
    task.kill()
    assert runner.exec_spec(name, "model", "sh") is None


def test_containers_of_a_task_share_a_network_and_volumes(start: Start, runner: EngineRunner) -> None:
    """Also after the first one, on which another depends, has ended."""
    write = "open('/tmp/made', 'w').close()"
    mounts = HARDENED["mountPoints"]
    first, _ = start(write, task_id="pair", shared_ports=(3000,), name="init", mountPoints=mounts)
    assert end(first) == 0
    task, _ = start(SERVER, task_id="pair", shared_ports=(3000,), name="app", **HARDENED)
    program = "import os, urllib.request\nprint(urllib.request.urlopen('http://127.0.0.1:3000').status)\n"
    program += "print(sorted(os.listdir('/tmp')))"
    assert ask(task)["user"] == 65532
    client, lines = start(program, task_id="pair", shared_ports=(3000,), name="client", mountPoints=mounts)

    assert end(client) == 0
    assert lines == ["200", "['made', 'x']"]
    task.terminate()
    assert end(task) == 7
    runner.release("pair")
    assert names_of(runner, "pair") == []
    assert "pair" not in runner._engine.call("volume", "ls", "--quiet")


def test_a_health_check_runs_as_the_containers_user(start: Start, runner: EngineRunner) -> None:
    start(SERVER, task_id="checked", **HARDENED)
    spec = runner.exec_spec(
        "checked", "model", "/bin/sh -c 'test $(python3 -c \"import os; print(os.getuid())\") = 65532'", as_root=False
    )
    assert spec is not None
    check = HealthCheck((), interval_seconds=0.1, timeout_seconds=20, retries=1)
    seen: list[str] = []
    probe = ContainerProbe(check, lambda: spec, seen.append)

    until = time.monotonic() + 30
    while not seen and time.monotonic() < until:
        time.sleep(0.1)
    probe.stop()

    assert seen == ["HEALTHY"]


def names_of(runner: EngineRunner, task_id: str) -> list[str]:
    """Returns the names of a task's containers in the engine."""
    names = runner._engine.call("ps", "--all", "--format", "{{.Names}}", "--filter", f"name={task_id}")
    return names.split()


def test_what_a_killed_stack_left_is_removed_later(
    start: Start, container_engine: ContainerEngine, cache: Path
) -> None:
    task, _ = start("import time\ntime.sleep(600)")
    assert containers_of(container_engine, cache / "local" / "tasks")

    remove_leftovers(cache / "local" / "tasks")

    assert containers_of(container_engine, cache / "local" / "tasks") == []
    assert end(task) == 137
    assert not list((cache / "local" / "tasks").glob("engine-*.json"))


def test_a_container_that_is_created_while_the_stack_stops_is_removed(
    container_engine: ContainerEngine, registry: LocalRegistry, python_image: str, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    slow = f'for word; do test "$word" != create || {{ touch {begun}; sleep 1; }}; done; exec "$@"'
    command = ("/bin/sh", "-c", slow, "slow", *container_engine.command)
    runner = EngineRunner(
        replace(container_engine, command=command), tmp_path / "tasks", registry=registry.address, password=None
    )
    container = Container.of_json(
        {"name": "model", "image": python_image, "command": ["sleep", "600"], "stopTimeout": 1}
    )
    spec = ContainerSpec("late", container, runner.pull(python_image))
    failures: list[TaskFailedToStart] = []
    starting = threading.Thread(target=_start_into, args=(runner, spec, failures))
    starting.start()
    while not begun.exists():
        time.sleep(0.01)

    runner.close()
    starting.join(60)

    assert containers_of(container_engine, tmp_path / "tasks") == []
    _start_into(runner, spec, failures)
    assert "the local stack is stopping" in str(failures[-1])
    assert not list((tmp_path / "tasks").glob("engine-*.json"))


def _start_into(runner: EngineRunner, spec: ContainerSpec, failures: list[TaskFailedToStart]) -> None:
    try:
        runner.start(spec, print)
    except TaskFailedToStart as error:
        failures.append(error)


def test_containers_that_cannot_be_removed_are_left_for_the_next_start(
    container_engine: ContainerEngine, registry: LocalRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = ("/bin/sh", "-c", "echo 4711", *container_engine.command)
    EngineRunner(replace(container_engine, command=command), tmp_path, registry=registry.address, password=None)

    remove_leftovers(tmp_path)

    assert "1 of 1 are still there" in caplog.text
    assert list(tmp_path.glob("engine-*.json"))

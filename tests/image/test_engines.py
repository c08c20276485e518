"""Exported images in container engines: podman with its storage in a folder, and a Docker daemon of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlflow_fargate.image import Compression, OciLayout, Reference, Registry
from mlflow_fargate.progress import RecordedProgress
from support.image import make_image
from tests.image.conftest import push_layers

pytestmark = pytest.mark.exhaustive

CONFINED = ("--rm", "--network=none", "--read-only", "--cap-drop=ALL")
# The limits of a machine without systemd can be lower than podman's defaults.
LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
PROGRAM = "import os, six; print('six', six.__version__, os.getuid(), os.getgid())"
SAID = "six 1.17.0 65532 65532"


@pytest.fixture
def export(local_registry: str, debian_archive: bytes, tmp_path: Path) -> Callable[[str], Path]:
    """Exports an image with that compression, whose entry point prints `SAID`; returns the folder."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "service.py").write_text("Service = None\n")

    def export(compression: str) -> Path:
        folder = tmp_path / f"churn-{compression}"
        with Registry(local_registry) as registry:
            base = push_layers(
                registry, Reference(local_registry, "own/base", "12"), [debian_archive], history=["debootstrap"]
            )
            make_image(
                base=base,
                base_registry=registry,
                requirements=("six==1.17.0",),
                python_version="3.11",
                service=tmp_path / "service",
                model={"MLmodel": tmp_path / "service" / "service.py"},
                destination=Reference("localhost", "exported", "latest"),
                registry=OciLayout(folder),
                cache=tmp_path / "cache",
                progress=RecordedProgress(),
                compression=Compression(compression),
                entry_point=("python3", "-c", PROGRAM),
            )
        return folder

    return export


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[list[str]]:
    if not shutil.which("podman") or os.geteuid() != 0:
        pytest.skip("podman is not installed (apt-get install podman), or the user is not root")
    runtime = ("--runtime", "runc") if shutil.which("runc") else ()
    with tempfile.TemporaryDirectory() as short:  # podman allows 50 characters
        where = ("--root", str(tmp_path / "containers"), "--runroot", f"{short}/run", "--storage-driver", "vfs")
        yield ["podman", *where, *runtime, "--cgroup-manager", "cgroupfs"]


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[list[str]]:
    """A command for a daemon that this test has started, with its files in a folder and without a network."""
    if not shutil.which("dockerd") or os.geteuid() != 0:
        pytest.skip("dockerd is not installed (apt-get install docker.io), or the user is not root")
    # Short: the paths of its sockets are in there.
    home, log = Path(tempfile.mkdtemp()), tmp_path / "dockerd.log"
    command = [
        "dockerd",
        "--data-root",
        str(home / "data"),
        "--exec-root",
        str(home / "exec"),
        "--pidfile",
        str(home / "pid"),
    ]
    alone = [
        "--iptables=false",
        "--bridge=none",
        "--storage-driver=vfs",
        "--host",
        f"unix://{home / 'sock'}",
    ]
    with log.open("wb") as stream:
        daemon = subprocess.Popen([*command, *alone], stdout=stream, stderr=stream)
    try:
        docker = ["docker", "--host", alone[-1]]
        deadline = time.monotonic() + 60
        while subprocess.run([*docker, "version"], capture_output=True, check=False).returncode:
            if daemon.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"dockerd does not run here: {log.read_text()[-500:]}")
            time.sleep(0.5)
        yield docker
    finally:
        daemon.terminate()
        daemon.wait(60)
        subprocess.run(["umount", str(home / "data")], capture_output=True, check=False)  # its bind mount of itself
        shutil.rmtree(home)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def load(engine: list[str], folder: Path) -> str:
    with subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE) as tar:
        return subprocess.run([*engine, "load"], stdin=tar.stdout, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_podman_runs_an_exported_image_and_loads_it(
    export: Callable[[str], Path], podman: list[str], compression: str
) -> None:
    folder = export(compression)

    assert run(*podman, "run", *CONFINED, *LIMITS, f"oci:{folder}:latest").endswith(SAID)
    assert "Loaded image" in load(podman, folder)


def test_docker_loads_and_runs_an_exported_image_with_gzip(export: Callable[[str], Path], docker: list[str]) -> None:
    folder = export("gzip")

    assert "Loaded image: churn-gzip:latest" in load(docker, folder)
    assert run(*docker, "run", *CONFINED, "churn-gzip:latest") == SAID
    if shutil.which("skopeo"):
        to = f"--dest-daemon-host={docker[-1]}"
        run("skopeo", "copy", to, f"oci:{folder}:latest", "docker-daemon:churn:copied")
        assert run(*docker, "run", *CONFINED, "churn:copied") == SAID

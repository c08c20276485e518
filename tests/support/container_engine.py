"""The container engine that tests use, and an image that it can run."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlflow_fargate.local.container.container_engine import ContainerEngine, EngineFailed, find_engine
from mlflow_fargate.local.registry.base_image import BASE_REPOSITORY
from mlflow_fargate.local.registry.server import LocalRegistry
from support.base_image import seed_shared_base_image

Programs = Callable[..., None]


@pytest.fixture(scope="session")
def container_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerEngine]:
    """Yields the engine that TEST_ENGINE names, or else podman or docker; skips where none runs a container.

    With TEST_ENGINE=docker, that is a daemon of its own.
    """
    wanted, said = os.environ.get("TEST_ENGINE"), []
    with docker_daemon(tmp_path_factory.mktemp("docker")) if wanted == "docker" else contextlib.nullcontext():
        for name in (wanted,) if wanted in ("podman", "docker") else ("podman", "docker"):
            try:
                engine = find_engine(name)
            except EngineFailed as error:
                said.append(f"{name}: {error}")
                continue
            yield engine
            return
        pytest.skip(f"no container engine works here ({'; '.join(said)})")


@contextlib.contextmanager
def docker_daemon(folder: Path) -> Iterator[None]:
    """Runs Docker's daemon with its files in the folder, and sets DOCKER_HOST; skips where it does not run."""
    program = shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or os.geteuid():
        pytest.skip("Docker's daemon is not installed" if program is None else "Docker's daemon needs root")
    socket = f"unix://{folder}/socket"
    # What it mounts ends with its namespace. Published ports need only its proxy, and no rules of the firewall.
    words = ["unshare", "--mount", program, "--host", socket, "--pidfile", folder / "pid", "--iptables=false"]
    words += ["--ip-forward=false", "--data-root", folder / "data", "--exec-root", folder / "exec"]
    had_bridge = Path("/sys/class/net/docker0").exists()
    with pytest.MonkeyPatch.context() as patch, (folder / "log").open("wb") as log:
        patch.setenv("DOCKER_HOST", socket)
        daemon = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 60
            while subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
                if daemon.poll() is not None or time.monotonic() > until:
                    pytest.skip(f"Docker's daemon does not run here: {(folder / 'log').read_text()[-500:]}")
                time.sleep(0.2)
            yield
        finally:
            daemon.terminate()
            daemon.wait(60)
            if not had_bridge:
                subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True, check=False)


@pytest.fixture(scope="module")
def python_image(registry: LocalRegistry) -> str:
    """Returns the local stack's base image, whose command is python3."""
    return f"{registry.address}/{BASE_REPOSITORY}@{seed_shared_base_image(registry.store)}"

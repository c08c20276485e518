"""Pushes that are interrupted and run again."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_fargate.image.oci.platforms import LINUX_AMD64
from mlflow_fargate.image.registry.client import Registry
from mlflow_fargate.local.registry.server import LocalRegistry
from tests.image.conftest import push_base


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalRegistry]:
    with LocalRegistry(tmp_path / "registry", password=None) as server:
        yield server


PUSH = """
import sys
from pathlib import Path
from mlflow_fargate.image import Destination, ImageSpec, Model, Reference, Registry, build_image
from mlflow_fargate.progress import PlainProgress
address, folder, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
with Registry(address) as registry:
    spec = ImageSpec(
        base=Reference(address, "library/python", "3-slim"), requirements=("six==1.17.0", "idna==3.10"),
        python_version=f"{sys.version_info[0]}.{sys.version_info[1]}", service=folder / "service",
        model=Model({f"weights-{i}": folder / f"weights-{i}" for i in range(4)}, "1"))
    destination = Destination(registry, Reference(address, name, "v1"))
    image = build_image(spec, destination, cache=folder / f"cache-{name}", progress=PlainProgress())
print(image.reference.digest, image.report.sent_bytes)
"""


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_push_killed_at_any_time_is_finished_by_the_next_run(local: LocalRegistry, tmp_path: Path) -> None:
    """Twenty times over the whole build: the digest is the same, and uploaded blobs are not uploaded again."""
    dice = random.Random(20)
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "service.py").write_text("Service = None\n")
    for number in range(4):
        (tmp_path / f"weights-{number}").write_bytes(dice.randbytes(20_000_000))
    with Registry(local.address) as registry:
        push_base(registry, "library/python", "3-slim")
        began = time.monotonic()
        expected, total = push_in_a_process(local.address, tmp_path, "whole")
        whole_seconds = time.monotonic() - began
        # The base is mounted, and the configuration is not in the report.
        blobs = registry.read_manifest("whole", "v1", LINUX_AMD64).manifest.layers[2:]
        for moment in range(20):
            name = f"killed-{moment}"
            process = start_push(local.address, tmp_path, name)
            time.sleep(whole_seconds * (0.3 + 0.7 * dice.random()))
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            arrived = [blob for blob in blobs if registry.has_blob(name, blob.digest)]

            digest, sent = push_in_a_process(local.address, tmp_path, name)

            assert digest == expected
            assert sent == total - sum(blob.size_bytes for blob in arrived)
            shutil.rmtree(tmp_path / f"cache-{name}", ignore_errors=True)


def start_push(address: str, folder: Path, name: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PUSH, address, str(folder), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def push_in_a_process(address: str, folder: Path, name: str) -> tuple[str, int]:
    with start_push(address, folder, name) as process:
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    digest, sent = output.split()
    return digest, int(sent)

"""Memory and disk use while a model of gigabytes is streamed from S3 to a registry."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from mlflow_fargate.image.oci.platforms import LINUX_AMD64
from mlflow_fargate.image.registry.client import Registry
from mlflow_fargate.local.s3.app import S3App
from mlflow_fargate.local.signature import Keys
from mlflow_fargate.local.wsgi_server import WsgiServer
from tests.image.conftest import MINOR, push_base

MODEL_BYTES = 1 << 30
# Of these, Python with MLflow, boto3 and this package take 209 MB before any work.
MAX_BYTES = 250 * 10**6

PUSH = """
import json, sys
from functools import partial
from pathlib import Path
import boto3
import mlflow_fargate.deployments.deployer  # all that a deploying process has in memory
from mlflow_fargate.aws.s3 import S3Artifacts, make_s3_client
from mlflow_fargate.image import Destination, ImageSpec, Model, Reference, Registry, StreamedFile, build_image
from mlflow_fargate.progress import PlainProgress

host, url, folder, minor = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
store = S3Artifacts(make_s3_client(boto3.Session("local", "local", region_name="us-east-1"), url))
files = store.files("s3://models/large")
with Registry(host) as registry:
    streamed = {f.path: StreamedFile(f.size_bytes, partial(store.stream, "s3://models/large", f)) for f in files}
    spec = ImageSpec(
        base=Reference(host, "library/python", "3-slim"), requirements=(), python_version=minor,
        service=folder / "service", model=Model(streamed, ",".join(file.etag for file in files)))
    destination = Destination(registry, Reference(host, "large", "v1"))
    image = build_image(spec, destination, cache=folder / "cache", progress=PlainProgress())
sent = {layer.name: layer.sent_bytes for layer in image.report.layers}
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
print(json.dumps({"peak": peak, "sent": sent["model"]}))
"""


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[str]:
    app = S3App(tmp_path / "s3", keys=Keys("local", "local"))
    with WsgiServer(app, threads=8) as server:
        client = boto3.client(
            "s3",
            endpoint_url=server.url,
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",
        )
        client.create_bucket(Bucket="models")
        with (tmp_path / "weights").open("wb") as file:
            dice = random.Random(4)
            for megabyte in range(MODEL_BYTES >> 20):
                file.write(dice.randbytes(1 << 20) if megabyte % 4 else bytes(1 << 20))
        client.upload_file(str(tmp_path / "weights"), "models", "large/weights")
        (tmp_path / "weights").unlink()
        yield server.url
    app.close()


def push(distribution: str, s3: str, folder: Path) -> dict[str, int]:
    command = [sys.executable, "-c", PUSH, distribution, s3, str(folder), MINOR]
    run = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert run.returncode == 0, run.stderr
    told: dict[str, int] = json.loads(run.stdout.splitlines()[-1])
    return told


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_large_model_is_never_stored_as_a_whole(distribution: str, s3: str, tmp_path: Path) -> None:
    """Neither in memory nor on disk; the second time, it is not read at all."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "service.py").write_text("Service = None\n")
    with Registry(distribution) as registry:
        push_base(registry, "library/python", "3-slim")
    largest, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            sizes = [path.stat().st_size for path in tmp_path.glob("cache/**/*") if path.is_file()]
            largest[0] = max(largest[0], sum(sizes))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        first = push(distribution, s3, tmp_path)
    finally:
        done.set()
        watching.join()
    again = push(distribution, s3, tmp_path)

    assert first["peak"] < MAX_BYTES
    assert first["sent"] > MODEL_BYTES / 2
    assert largest[0] < 1 << 20
    assert again["sent"] == 0
    with Registry(distribution) as registry:
        layer = registry.read_manifest("large", "v1", LINUX_AMD64).manifest.layers[-1]
        assert layer.size_bytes == first["sent"]

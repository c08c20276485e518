"""Compares TensorFlow and ONNX Runtime for the walk-through's image classifier: image, start, memory, response time.

    python -m benchmarks.runtimes        (make bench-runtimes)

Trains the model, deploys it to a separate local stack with both runtimes, and writes a table to benchmarks/RESULTS.md.
CPU seconds are those of the task's processes until it is ready; memory is their proportional set size (PSS) after the
requests. The base image is not counted: on the local stack it contains this machine's Python.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from importlib.metadata import version
from pathlib import Path

import boto3
import mlflow
import numpy as np
import psutil
import requests
from mlflow.deployments import get_deploy_client
from PIL import Image

from benchmarks.results_page import find_processor, write_section
from examples.image_classifier.pictures import write_pictures
from tests.support.deployed_services import deployed

COMMAND = str(Path(sys.executable).parent / "mlflow-fargate")
NAME = "scenes"
REQUESTS = 200


def main() -> None:
    lines = [
        "| runtime | layers without the base, MB | ready, CPU s | memory, MB | p50 of one client, ms |",
        "|---|---:|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory() as name, own_stack(Path(name) / "cache"):
        pictures = Path(name) / "pictures"
        write_pictures(pictures)
        train = [sys.executable, "-m", "examples.image_classifier.train", str(pictures / "train"), NAME, "1"]
        subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
        for runtime in ("native", "onnx"):
            lines.append(measure(runtime))
            print(lines[-1], flush=True)
    versions = ", ".join(f"{package} {version(package)}" for package in ("tensorflow-cpu", "keras", "bentoml"))
    where = f"{find_processor()}, {os.cpu_count()} CPUs; Python {sys.version.split()[0]}, {versions}."
    what = f"Written by `make bench-runtimes` on {date.today()}, for the walk-through's image classifier."
    write_section("Runtimes", f"{what}\n\n{where}\n\n" + "\n".join(lines))


@contextmanager
def own_stack(cache: Path, engine: str = "process") -> Iterator[None]:
    """Runs a local stack in `cache` as the target of this process."""
    os.environ["MLFLOW_FARGATE_CACHE"] = str(cache)
    subprocess.run([COMMAND, "local", "up", "--detach", "--engine", engine], check=True, stdout=subprocess.DEVNULL)
    try:
        lines = subprocess.check_output([COMMAND, "local", "env"], text=True).splitlines()
        for line in lines:
            name, _, value = line.removeprefix("export ").partition("=")
            os.environ[name] = value
        mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
        yield
    finally:
        subprocess.run([COMMAND, "local", "down"], check=True, stdout=subprocess.DEVNULL)


def measure(runtime: str) -> str:
    """Returns a line of the table."""
    with deployed(NAME, f"models:/{NAME}/1", {"runtime": runtime, "runtime_tolerance": 1e-4, "memory": 4096}) as url:
        processes = task_processes(NAME)
        cpu_seconds = sum(sum(process.cpu_times()[:2]) for process in processes)
        times = ask(f"{url}/predict_image")
        memory_mb = sum(process.memory_full_info().pss for process in task_processes(NAME)) / 1e6
        size_mb = own_layers_bytes(NAME) / 1e6
    p50 = float(np.percentile(times, 50))
    return f"| {runtime} | {size_mb:.0f} | {cpu_seconds:.1f} | {memory_mb:.0f} | {p50:.1f} |"


def ask(url: str) -> list[float]:
    """Returns the milliseconds of each response."""
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (150, 150, 3), dtype="uint8")).save(picture, "PNG")
    times = []
    with requests.Session() as session:
        for _ in range(REQUESTS):
            began = time.perf_counter()
            answer = session.post(url, picture.getvalue(), headers={"Content-Type": "image/png"}, timeout=60)
            assert answer.status_code == 200, answer.text
            times.append((time.perf_counter() - began) * 1000)
    return times


def task_processes(name: str) -> list[psutil.Process]:
    """Returns all processes of the deployment's only task."""
    return [one for one in psutil.process_iter() if _environment(one).get("PATH_PREFIX") == f"/{name}"]


def own_layers_bytes(name: str) -> int:
    """What the deployed image's layers take in the registry, without those of its base."""
    image = get_deploy_client("fargate:/local").get_deployment(name)["image"]
    repository, _, digest = image.partition("/")[2].partition("@")
    found = (
        boto3.Session()
        .client("ecr")
        .batch_get_image(repositoryName=repository.partition(":")[0], imageIds=[{"imageDigest": digest}])
    )
    manifest = json.loads(found["images"][0]["imageManifest"])
    return sum(layer["size"] for layer in manifest["layers"] if "annotations" in layer)


def _environment(process: psutil.Process) -> dict[str, str]:
    with suppress(psutil.Error):
        return dict(process.environ())
    return {}


if __name__ == "__main__":
    main()

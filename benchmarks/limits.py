"""Tries to end the service's container with requests that are permitted: 1 client, then 32, in tasks of several sizes.

    python -m benchmarks.limits [--memory 512,2048] [--models TensorFlow] [--seconds 6]        (make bench-limits)

Needs podman and root. Each container has this machine's file system (changes are discarded), no swap, and a hard limit
of memory, as a task on Fargate. Writes a table to benchmarks/RESULTS.md, and exits with 1 if a container was killed.
"""

from __future__ import annotations

import argparse
import io
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import requests
from PIL import Image
from sklearn.linear_model import LogisticRegression

from benchmarks.results_page import write_section
from tests.support.serving_process import ENTRY_POINT, build

CLIENTS = 32
LABELS = {str(number): f"scene {number}" for number in range(6)}
SIDE = 100
# In a separate process: TensorFlow would stay in this one. The size of the walk-through's network.
CLASSIFIER = """
import sys, mlflow, tensorflow as tf
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
import numpy as np
layers = tf.keras.layers
model = tf.keras.Sequential([tf.keras.Input((100, 100, 3)), layers.Conv2D(32, 3, activation="relu"),
    layers.MaxPooling2D(), layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten(),
    layers.Dense(64, activation="relu"), layers.Dense(6, activation="softmax")])
spec = lambda *shape: Schema([TensorSpec(np.dtype("float32"), (-1, *shape))])
mlflow.tensorflow.save_model(model, sys.argv[1], signature=ModelSignature(spec(100, 100, 3), spec(6)),
                             pip_requirements=["tensorflow"])
"""


@dataclass(frozen=True)
class Load:
    """One kind of request."""

    name: str
    path: str
    content_type: str
    bodies: Sequence[bytes]


@dataclass
class Outcome:
    """What 32 clients saw, and what became of the container."""

    alone: Counter[int | str] = field(default_factory=Counter)  # statuses of one client
    statuses: Counter[int | str] = field(default_factory=Counter)
    answers: dict[bytes, bytes] = field(default_factory=dict)  # the first to each body
    wrong: int = 0  # that differ from it
    slowest_check: float = 0.0
    peak_mib: int = 0
    was_killed: bool = False


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", default="512,1024,2048", help="MiB of the tasks")
    parser.add_argument("--models", default="scikit-learn,TensorFlow")
    parser.add_argument("--seconds", type=float, default=6, help="duration of each load")
    arguments = parser.parse_args()
    lines = [
        "| model | task, MiB | requests | 1 client, per s | 32 clients, per s | statuses of 32 | wrong answers "
        "| peak, MiB | slowest /readyz, s |",
        "|---|---:|---|---:|---:|---|---:|---:|---:|",
    ]
    killed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        makers = {"scikit-learn": (make_table, tables), "TensorFlow": (make_classifier, images)}
        for kind in arguments.models.split(","):
            make, loads_of = makers[kind]
            source, model_dir = make(folder)
            loads = loads_of()
            for mib in map(int, arguments.memory.split(",")):
                for load in loads:
                    outcome = measure(source, model_dir, mib, load, arguments.seconds)
                    killed += outcome is not None and outcome.was_killed
                    lines.append(row(kind, mib, load, outcome, arguments.seconds))
                    print(lines[-1], flush=True)
                    if outcome is None:
                        break
    what = f"Written by `make bench-limits` on {date.today()}. A task that is too small for its model does not start."
    write_section("Limits", f"{what}\n\n" + "\n".join(lines))
    sys.exit(killed > 0)


def row(kind: str, mib: int, load: Load, outcome: Outcome | None, seconds: float) -> str:
    """Returns a line of the table."""
    if outcome is None:
        return f"| {kind} | {mib} | (does not start) | | | | | | |"
    listed = ", ".join(f"{status}: {count}" for status, count in sorted(outcome.statuses.items(), key=str))
    end = "**killed**, " if outcome.was_killed else ""
    return (
        f"| {kind} | {mib} | {load.name} | {outcome.alone[200] / seconds:.1f} | {outcome.statuses[200] / seconds:.1f} "
        f"| {end}{listed} | {outcome.wrong} | {outcome.peak_mib} | {outcome.slowest_check:.2f} |"
    )


def measure(source: Path, model_dir: Path, mib: int, load: Load, seconds: float) -> Outcome | None:
    """Returns what happens to a new container; None if it does not become ready."""
    with container(source, model_dir, mib) as (identifier, url):
        if not is_ready(identifier, url):
            log = subprocess.run(["podman", "logs", identifier], check=False, capture_output=True, text=True)
            print(log.stdout[-1000:], log.stderr[-2000:], file=sys.stderr)
            return None
        outcome = Outcome()
        send(url, load, 0, time.monotonic() + seconds, outcome, outcome.alone)
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=send, args=(url, load, number, end, outcome, outcome.statuses))
            for number in range(CLIENTS)
        ]
        threads.append(threading.Thread(target=check, args=(url, end, outcome)))
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        outcome.was_killed = not is_running(identifier)
        outcome.peak_mib = peak_mib(identifier)
        return outcome


def send(url: str, load: Load, number: int, end: float, outcome: Outcome, statuses: Counter[int | str]) -> None:
    """Sends one request after another until `end`."""
    session = requests.Session()
    headers = {"Content-Type": load.content_type}
    while time.monotonic() < end:
        body = load.bodies[number % len(load.bodies)]
        number += 1
        try:
            answer = session.post(url + load.path, body, headers=headers, timeout=90)
            status: int | str = answer.status_code
            if status == 200:
                outcome.wrong += outcome.answers.setdefault(body, answer.content) != answer.content
        except requests.RequestException as error:
            status = type(error).__name__
        statuses[status] += 1
        if status == 503:
            time.sleep(1)  # Retry-After


def check(url: str, end: float, outcome: Outcome) -> None:
    """Measures how long a health check takes, until `end`."""
    while time.monotonic() < end:
        began = time.monotonic()
        try:
            requests.get(f"{url}/readyz", timeout=30)
        except requests.RequestException:
            return
        outcome.slowest_check = max(outcome.slowest_check, time.monotonic() - began)
        time.sleep(0.1)


@contextmanager
def container(source: Path, model_dir: Path, mib: int) -> Iterator[tuple[str, str]]:
    """Yields the identifier of a container that serves the model, and its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "BENTOML_HOST": "127.0.0.1",
        "BENTOML_PORT": str(port),
        "BENTOML_HOME": "/tmp/bentoml",
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_CONTAINERIZED": "true",
        "OTEL_SDK_DISABLED": "true",
        "MODEL_DIR": str(model_dir),
        "TASK_CPU_UNITS": "1024",
        "TASK_MEMORY_MIB": str(mib),
    }
    command = [
        *("podman", "--runtime=runc", "run", "--detach", "--net=host", f"--memory={mib}m", f"--memory-swap={mib}m"),
        "--timeout=600",  # also if this process is killed
        *("--ulimit=nofile=1024:4096", "--ulimit=nproc=4096:4096", f"--workdir={source}"),
        *(f"--env={name}={value}" for name, value in environment.items()),
        *("--rootfs", "/:O", sys.executable, *ENTRY_POINT),
    ]
    identifier = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield identifier, f"http://127.0.0.1:{port}"
    finally:
        subprocess.run(["podman", "rm", "--force", "--time=0", identifier], check=True, capture_output=True)


def is_ready(identifier: str, url: str) -> bool:
    """Waits until the service responds; returns False if its container ends."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and is_running(identifier):
        try:
            if requests.get(f"{url}/readyz", timeout=2).status_code == 200:
                return True
        except requests.RequestException:
            time.sleep(0.3)
    return False


def is_running(identifier: str) -> bool:
    """Returns whether the container, and every process in it, is still as it was started."""
    command = ["podman", "inspect", "--format={{.State.Running}} {{.State.OOMKilled}}", identifier]
    said = subprocess.run(command, check=False, capture_output=True, text=True).stdout.split()
    return said in (["true", "false"], [])  # podman fails now and then on a busy machine


def peak_mib(identifier: str) -> int:
    """Returns the highest memory use of the container's cgroup, page cache included."""
    for pattern in ("memory/**/memory.max_usage_in_bytes", "**/memory.peak"):
        for file in Path("/sys/fs/cgroup").glob(pattern):
            if identifier in str(file.parent.name):
                return int(file.read_text()) >> 20
    return 0


def make_table(folder: Path) -> tuple[Path, Path]:
    """Returns a service's source and a scikit-learn model of ten columns."""
    columns = list("abcdefghij")
    table = pd.DataFrame(np.random.default_rng(1).random((50, 10)), columns=columns)
    model = LogisticRegression().fit(table, table["a"] > 0.5)
    path = folder / "linear"
    options = {"input_example": table.head(3), "pip_requirements": ["scikit-learn"]}
    signature = mlflow.models.infer_signature(table, model.predict(table))
    mlflow.sklearn.save_model(model, path, signature=signature, serialization_format="cloudpickle", **options)
    return build(path, folder / "table-service"), path


def make_classifier(folder: Path) -> tuple[Path, Path]:
    """Returns a service's source and a TensorFlow model for images of 100 x 100 pixels."""
    path = folder / "classifier"
    subprocess.run([sys.executable, "-c", CLASSIFIER, str(path)], check=True, capture_output=True)
    return build(path, folder / "image-service", labels=LABELS), path


def tables() -> list[Load]:
    """Returns what is sent to the scikit-learn model."""

    def split(rows: int) -> bytes:
        data = np.random.default_rng(1).random((rows, 10)).tolist()
        return json.dumps({"dataframe_split": {"columns": list("abcdefghij"), "data": data}}).encode()

    hostile: Mapping[str, object] = {
        "different keys": {"dataframe_records": [{f"k{number}": 1} for number in range(16_000)]},
        "one wide row": {"dataframe_split": {"data": [[0] * 16_000, *[[]] * 16_000]}},
        "one value": {"dataframe_split": {"index": [0] * 16_000, "columns": [0] * 16_000, "data": 1}},
        "one long text": {"inputs": [*["a"] * 10_000, "b" * 100_000]},
    }
    bodies = [json.dumps(document).encode() for document in hostile.values()]
    bodies += [b'{"inputs":[' + b"[]," * 6_000_000 + b"[]]}", b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}"]
    path, kind = "/invocations", "application/json"
    return [
        Load("1 row", path, kind, [split(1)]),
        Load("1,000 rows", path, kind, [split(1000)]),
        Load("3.5 MB", path, kind, [split(17_000)]),
        Load("19.5 MB", path, kind, [split(95_000)]),
        Load("hostile JSON", path, kind, bodies),
        Load("hostile CSV", path, "text/csv", [b"," * 20_000 + b"\n" + b"1\n" * 20_000]),
    ]


def images() -> list[Load]:
    """Returns what is sent to the classifier."""
    random = np.random.default_rng(1)

    def file(pixels: np.ndarray, image_format: str) -> bytes:
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, image_format)
        return content.getvalue()

    small = file(random.integers(0, 40, (SIDE, SIDE, 3), dtype="uint8") // 16, "PNG")
    phone = file(random.integers(0, 256, (250, 333, 3), dtype="uint8").repeat(12, 0).repeat(12, 1), "JPEG")
    large = file(np.zeros((7000, 7000, 4), dtype="uint8"), "PNG")
    thin = file(np.zeros((49_000, 1000), dtype="uint8"), "PNG")
    path, kind = "/predict_image", "application/octet-stream"
    return [
        Load(f"a PNG of {len(small) / 1000:.0f} kB", path, kind, [small]),
        Load("a JPEG of 12 megapixels", path, kind, [phone]),
        Load("a PNG of 49 megapixels", path, kind, [large]),
        Load("a PNG that is too long", path, kind, [thin]),
    ]


if __name__ == "__main__":
    main()

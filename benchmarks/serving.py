"""Compares the speed of the service with `mlflow models serve`, a plain BentoML service and the bare model.

    python -m benchmarks.serving [SECONDS]

Prints a table and writes it, with machine and versions, to benchmarks/RESULTS.md.

Two models: the walk-through's image classifier, which gets PNG files (MLflow's server does not accept images and gets
the numbers as JSON), and a scikit-learn random forest, which gets one row. Each server runs alone, on the same cores as
the client, without an API key. The table shows requests per second, median and 99th percentile in milliseconds at 1, 8
and 32 clients, and the memory of the server's processes. The floors are loops in one process, without a server:
decoding and predicting for images; for rows the model's own `predict`, and the same with the JSON parsing, checks and
writing that the protocol requires of every server.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

import aiohttp
import numpy as np
import psutil
import requests
from PIL import Image

from benchmarks.results_page import write_section
from tests.support.serving_process import build, serve

CLIENTS = (1, 8, 32)
SIDE = 100
COLUMNS = 10
MAKE_MODELS = f"""
import sys
from pathlib import Path
import mlflow, numpy as np, tensorflow as tf
from mlflow.models import infer_signature
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
folder = Path(sys.argv[1])
layers = tf.keras.layers
network = tf.keras.Sequential([tf.keras.Input(({SIDE}, {SIDE}, 3)), layers.Conv2D(64, 2, activation="relu"),
                               layers.Flatten(), layers.Dense(6, activation="softmax")])
images = np.zeros((1, {SIDE}, {SIDE}, 3), "float32")
signature = infer_signature(images, network.predict(images, verbose=0))
mlflow.tensorflow.save_model(network, folder / "image", signature=signature, pip_requirements=["mlflow"])
rows, classes = make_classification(2000, {COLUMNS}, random_state=1)
import pandas as pd
table = pd.DataFrame(rows, columns=[f"c{{number}}" for number in range({COLUMNS})])
forest = RandomForestClassifier(100, random_state=1).fit(table, classes)
signature = infer_signature(table, forest.predict(table))
mlflow.sklearn.save_model(forest, folder / "table", signature=signature, pip_requirements=["mlflow"],
                          serialization_format="cloudpickle")
"""
PLAIN = """
import os
from pathlib import Path
import bentoml, mlflow, numpy as np
from PIL.Image import Image

FOLDER = Path(os.environ["BENCH_MODELS"])

@bentoml.service(workers=1)
class Plain:
    def __init__(self):
        name = os.environ["BENCH_MODEL"]
        if name == "image":
            self.model = mlflow.tensorflow.load_model(str(FOLDER / name))
        else:
            self.model = mlflow.sklearn.load_model(str(FOLDER / name))

    @bentoml.api
    def predict_image(self, image: Image) -> dict:
        pixels = np.asarray(image.convert("RGB").resize((100, 100)))
        scores = self.model.predict(np.divide(pixels, 255.0).astype("float32")[np.newaxis], verbose=0)
        return {"label": str(scores[0].argmax())}

    @bentoml.api
    def predict_row(self, row: list[float]) -> dict:
        return {"predictions": self.model.predict(np.array([row])).tolist()}
"""
# A loop over `run(size)`, and a line of the table for each size; 0 counts as one.
LOOP = """
for size, title in ({rows}):
    run(size)
    began, times = time.perf_counter(), []
    while time.perf_counter() - began < float(sys.argv[2]):
        before = time.perf_counter()
        run(size)
        times.append((time.perf_counter() - before) * 1000)
    count = max(size, 1)
    rate, times = len(times) * count / sum(times) * 1000, sorted(times)
    p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
    print(f"| {model} | {{title}}, {{count}} at a time | - | {{rate:.0f}} | {{p50:.1f}} | {{p99:.1f}} | |", flush=True)
"""
IMAGE_FLOOR = """
import io, sys, time
from pathlib import Path
import numpy as np, tensorflow as tf, mlflow
from PIL import Image
folder = Path(sys.argv[1])
image = (folder / "picture.png").read_bytes()
network = mlflow.tensorflow.load_model(str(folder / "image"))
graph = tf.function(network, input_signature=[tf.TensorSpec((None, 100, 100, 3), tf.float32)])
def decode():
    pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB").resize((100, 100)))
    return np.divide(pixels, 255.0).astype("float32")[np.newaxis]
def run(size):
    graph(np.concatenate([decode() for _ in range(size)])).numpy()
""" + LOOP.format(rows="(1, 'floor'), (32, 'floor')", model="image")
TABLE_FLOOR = """
import sys, time, json
from pathlib import Path
import pandas as pd, mlflow
from mlflow.pyfunc import scoring_server
folder = Path(sys.argv[1])
body = (folder / "row.json").read_bytes()
split = json.loads(body)["dataframe_split"]
model = mlflow.pyfunc.load_model(str(folder / "table"))
bare = model.get_raw_model()
schema = model.metadata.get_input_schema()
tables = {size: pd.DataFrame(split["data"] * size, columns=split["columns"]) for size in (1, 32)}
def run(size):
    bare.predict(tables[size]) if size else scoring_server.invocations(body, "application/json", model, schema)
""" + LOOP.format(rows="(1, 'floor'), (32, 'floor'), (0, 'floor with the protocol')", model="table")


@dataclass(frozen=True)
class Question:
    """A request that is sent repeatedly."""

    path: str
    body: bytes
    headers: dict[str, str]


def main(seconds: float) -> None:
    lines = ["| model | server | clients | requests/s | p50 ms | p99 ms | memory MB |", "|---|---|---|---|---|---|---|"]

    def tell(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    print("\n".join(lines))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-c", MAKE_MODELS, name], check=True, capture_output=True)
        (folder / "plain.py").write_text(PLAIN)
        (folder / "picture.png").write_bytes(make_picture())
        (folder / "row.json").write_bytes(make_question("table", "mlflow-fargate", folder).body)
        for model, floor in (("image", IMAGE_FLOOR), ("table", TABLE_FLOOR)):
            command = [sys.executable, "-c", floor, name, str(seconds)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for line in done.stdout.splitlines():
                tell(line)
            for server, start in (
                ("mlflow-fargate", serve_ours),
                ("mlflow", serve_mlflow),
                ("plain BentoML", serve_plain),
            ):
                with start(model, folder) as (url, process):
                    question = make_question(model, server, folder)
                    for line in measure(url, question, process, title=f"{model} | {server}", seconds=seconds):
                        tell(line)
    write_section("Serving", f"{describe_run(seconds)}\n\n" + "\n".join(lines))


def describe_run(seconds: float) -> str:
    """Returns date, machine and versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("mlflow", "bentoml", "scikit-learn", "keras", "numpy"))
    memory_gib = psutil.virtual_memory().total / 2**30
    machine = f"{find_processor()}, {os.cpu_count()} CPUs, {memory_gib:.0f} GiB, {platform.platform()}"
    return (
        f"Written by `make bench-serving` on {date.today().isoformat()}; each line ran for {seconds:g} s.\n\n"
        f"{machine}; Python {platform.python_version()}, {versions}. Load when it ended: {os.getloadavg()[0]:.1f}."
    )


def find_processor() -> str:
    """Returns the processor's name on Linux, elsewhere its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def measure(
    url: str, question: Question, process: subprocess.Popen[bytes], *, title: str, seconds: float
) -> Iterator[str]:
    """Yields a line for each number of clients."""
    asyncio.run(hammer(url, question, clients=4, seconds=2))  # warm-up
    for clients in CLIENTS:
        times = asyncio.run(hammer(url, question, clients=clients, seconds=seconds))
        rate, p50, p99 = len(times) / seconds, *np.percentile(times, [50, 99])
        row = (title, clients, f"{rate:.0f}", f"{p50:.1f}", f"{p99:.1f}", memory_mb(process))
        yield f"| {' | '.join(map(str, row))} |"


async def hammer(url: str, question: Question, *, clients: int, seconds: float) -> list[float]:
    """Returns the milliseconds of each response to `clients` parallel clients; AssertionError for a failure."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def client(session: aiohttp.ClientSession) -> None:
        while (began := time.perf_counter()) < end:
            async with session.post(url + question.path, data=question.body, headers=question.headers) as response:
                text = await response.text()
                assert response.status == 200, text
            times.append((time.perf_counter() - began) * 1000)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return times


def make_picture() -> bytes:
    """A PNG of 150x150, as in the walk-through's data set."""
    file = io.BytesIO()
    shades = np.random.default_rng(1).integers(0, 256, (15, 15, 3), dtype="uint8")
    Image.fromarray(shades).resize((150, 150)).save(file, "PNG")
    return file.getvalue()


def make_question(model: str, server: str, folder: Path) -> Question:
    picture = (folder / "picture.png").read_bytes()
    as_json = {"Content-Type": "application/json"}
    if model == "image":
        if server == "mlflow":
            pixels = np.asarray(Image.open(io.BytesIO(picture)).resize((SIDE, SIDE))) / 255.0
            body = {"instances": [pixels.round(4).tolist()]}
            return Question("/invocations", json.dumps(body).encode(), as_json)
        if server == "mlflow-fargate":
            return Question("/predict_image", picture, {"Content-Type": "image/png"})
        part = (
            b'--x\r\nContent-Disposition: form-data; name="image"; filename="p.png"\r\nContent-Type: image/png\r\n\r\n'
        )
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        return Question("/predict_image", part + picture + b"\r\n--x--\r\n", form)
    row = [0.5] * COLUMNS
    if server == "plain BentoML":
        return Question("/predict_row", json.dumps({"row": row}).encode(), as_json)
    split = {"columns": [f"c{number}" for number in range(COLUMNS)], "data": [row]}
    return Question("/invocations", json.dumps({"dataframe_split": split}).encode(), as_json)


Served = contextlib.AbstractContextManager[tuple[str, "subprocess.Popen[bytes]"]]


@contextlib.contextmanager
def serve_ours(model: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    labels = {str(number): f"label {number}" for number in range(6)} if model == "image" else None
    work = folder / f"ours-{model}"
    work.mkdir()
    with serve(build(folder / model, work, labels=labels), folder / model, work) as running:
        yield running.url, running.process


def serve_mlflow(model: str, folder: Path) -> Served:
    command = ["-m", "mlflow", "models", "serve", "-m", str(folder / model), "--env-manager", "local", "-p"]
    return serve_command(command, "/ping", {}, folder)


def serve_plain(model: str, folder: Path) -> Served:
    variables = {"BENCH_MODELS": str(folder), "BENCH_MODEL": model}
    return serve_command(["-m", "bentoml", "serve", "plain:Plain", "-p"], "/readyz", variables, folder)


@contextlib.contextmanager
def serve_command(
    command: list[str], health: str, variables: dict[str, str], folder: Path
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, *command, str(port)],
        cwd=folder,
        # mlflow finds uvicorn on PATH.
        env={
            **os.environ,
            **variables,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "BENTOML_DO_NOT_TRACK": "true",
            "BENTOML_HOST": "127.0.0.1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(requests.RequestException):
                if requests.get(url + health, timeout=2).ok:
                    break
            time.sleep(0.3)
        else:
            raise RuntimeError(f"{command[1]} did not come up")
        yield url, process
    finally:
        # One by one: mlflow starts its server in its own session.
        for one in reversed([psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]):
            with contextlib.suppress(psutil.Error):
                one.kill()
        process.wait()


def memory_mb(process: subprocess.Popen[bytes]) -> int:
    """Returns the resident memory of the process and its descendants."""
    root = psutil.Process(process.pid)
    total = 0
    for one in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += one.memory_info().rss
    return round(total / 10**6)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)

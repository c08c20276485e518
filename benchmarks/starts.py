"""Measures the starts of containers with one CPU: seconds of CPU until ready, median of five, compared with targets.

    python -m benchmarks.starts        (make bench-starts)

Needs podman and root. Deploys three models to a separate local stack, and then runs their images as the task
definition says, one container after another. CPU seconds are those of the container's processes, from its start to the
first 200 of /readyz, which includes the first prediction. Writes a table to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import boto3
import mlflow
import pandas as pd
import psutil
import requests
from mlflow.deployments import get_deploy_client
from sklearn.linear_model import LogisticRegression

from benchmarks.results_page import find_processor, write_section
from benchmarks.runtimes import own_stack
from examples.image_classifier.pictures import write_pictures
from mlflow_fargate.local.container.container_engine import ContainerEngine, find_engine
from mlflow_fargate.local.container.run_arguments import ContainerState, make_limits, make_read_only, make_ulimits
from tests.support.deployed_services import deployed

RUNS = 5
PORT = 3000
MEMORY_MIB = 2048
CPU_UNITS = 1024


@dataclass(frozen=True)
class Case:
    """A model to start, and the seconds of CPU that it should need at most."""

    title: str
    model: str
    options: Mapping[str, Any]
    target_seconds: float


CASES = (
    Case("tabular, scikit-learn", "linear", {}, 2.5),
    Case("image classifier, TensorFlow", "scenes", {"runtime": "native"}, 4.0),
    Case("image classifier, ONNX Runtime", "scenes", {"runtime": "onnx", "runtime_tolerance": 1e-4}, 2.0),
)


def main() -> None:
    lines = ["| model | CPU s | of five runs | wall s | target, CPU s | |", "|---|---:|---|---:|---:|---|"]
    engine = find_engine("podman")
    with tempfile.TemporaryDirectory() as name, own_stack(Path(name) / "cache", engine="podman"):
        log_table()
        log_classifier(Path(name) / "pictures")
        for case in CASES:
            options = {**case.options, "cpu": CPU_UNITS, "memory": MEMORY_MIB}
            with deployed(case.model, f"models:/{case.model}/1", options):
                runs = [measure(engine, case.model) for _ in range(RUNS)]
            lines.append(row(case, runs))
            print(lines[-1], flush=True)
    versions = ", ".join(f"{one} {version(one)}" for one in ("bentoml", "mlflow", "tensorflow-cpu"))
    load = os.getloadavg()[0]
    where = f"{find_processor()}; Python {sys.version.split()[0]}, {versions}. Load when it ended: {load:.1f}."
    what = f"Written by `make bench-starts` on {date.today()}: containers with `--cpus 1`, medians of {RUNS} runs."
    write_section("Starts", f"{what}\n\n{where}\n\n" + "\n".join(lines))


def row(case: Case, runs: list[tuple[float, float]]) -> str:
    """Returns a line of the table; `runs` are pairs of CPU seconds and wall seconds."""
    cpu, wall = (statistics.median(values) for values in zip(*runs, strict=True))
    listed = ", ".join(f"{seconds:.2f}" for seconds, _ in runs)
    verdict = "" if cpu <= case.target_seconds else "missed"
    return f"| {case.title} | {cpu:.2f} | {listed} | {wall:.1f} | ≤ {case.target_seconds} | {verdict} |"


def log_table() -> None:
    table = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [1.0, 0.0, 1.0, 0.0]})
    model = LogisticRegression().fit(table, table["a"] > 1)
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            model, name="model", input_example=table, registered_model_name="linear", serialization_format="cloudpickle"
        )


def log_classifier(pictures: Path) -> None:
    write_pictures(pictures)
    train = [sys.executable, "-m", "examples.image_classifier.train", str(pictures / "train"), "scenes", "1"]
    subprocess.run(train, check=True, stdout=subprocess.DEVNULL)


def measure(engine: ContainerEngine, name: str) -> tuple[float, float]:
    """Returns the seconds of CPU, and those that passed, until a new container is ready."""
    with container(engine, name) as (state, started_at):
        url = f"http://127.0.0.1:{state.host_port}/{name}/readyz"
        wait_until(lambda: status_of(url) == 200)
        wall = time.time() - started_at
        process = psutil.Process(state.pid)
        others = process.children(recursive=True)
        return sum(process.cpu_times()[:4]) + sum(sum(one.cpu_times()[:4]) for one in others), wall


@contextmanager
def container(engine: ContainerEngine, name: str) -> Iterator[tuple[ContainerState, float]]:
    """Yields the state of a new container of the deployment's image, and when it was started."""
    arn = get_deploy_client("fargate:/local").get_deployment(name)["task_definition"]
    definition = boto3.client("ecs").describe_task_definition(taskDefinition=arn)["taskDefinition"]
    described = definition["containerDefinitions"][0]
    words = ["run", "--detach", "--pull=never", "--publish", f"127.0.0.1::{PORT}", "--cap-drop", "ALL"]
    words += make_limits(engine.traits, memory_mib=MEMORY_MIB, cpu_units=CPU_UNITS)
    words += [*make_ulimits((), engine.traits), *make_read_only(engine.traits)]
    for variable in described["environment"]:
        words += ["--env", f"{variable['name']}={variable['value']}"]
    began = time.time()
    identifier = engine.call(*words, described["image"]).strip()
    try:
        yield ContainerState.of_json(engine.call("inspect", "--type", "container", identifier)), began
    finally:
        engine.call("kill", identifier)
        engine.call("rm", "--force", "--volumes", identifier)


def status_of(url: str) -> int | None:
    try:
        return requests.get(url, timeout=5).status_code
    except requests.RequestException:
        return None


def wait_until(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not happened():
        if time.monotonic() > until:
            raise RuntimeError("the container did not become ready")
        time.sleep(0.05)


if __name__ == "__main__":
    main()

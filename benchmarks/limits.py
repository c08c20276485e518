"""Tries to end the service's container with requests that are permitted: 1 client, then 32, in tasks of several sizes.

    python -m benchmarks.limits [--memory 512,2048] [--models TensorFlow] [--requests PNG] [--seconds 6]

or `make bench-limits` for all of it.

Needs podman and root. Each container has this machine's file system (changes are discarded), no swap, and a hard limit
of memory, as a task on Fargate. Writes a table to benchmarks/RESULTS.md, and exits with 1 if a container was killed, a
response was wrong or an error of the service, or a 503 did not succeed when it was repeated.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import requests

from benchmarks.limits_clients import Clients, Outcome, Statuses
from benchmarks.limits_loads import Load, images, tables
from benchmarks.limits_models import Served, make_classifier, make_converted, make_table
from benchmarks.results_page import write_section
from tests.support.serving_process import ENTRY_POINT

CLIENTS = 32
MODELS = {
    "scikit-learn": (make_table, tables),
    "TensorFlow": (make_classifier, images),
    "ONNX": (make_converted, images),
}
HEAD = [
    "| model | task, MiB | requests | largest, MB | statuses of 1 client | 200 per s, 1 client | 32 clients "
    "| statuses of 32 | wrong answers | 503 that never succeeded | peak, MiB | slowest /readyz, s |",
    "|---|---:|---|---:|---|---:|---:|---|---:|---:|---:|---:|",
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", default="512,1024,2048", help="MiB of the tasks")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--requests", default="", help="only those whose name contains this")
    parser.add_argument("--seconds", type=float, default=6, help="duration of each load")
    arguments = parser.parse_args()
    rows: list[str] = []
    has_failed = False
    with tempfile.TemporaryDirectory() as folder:
        for kind in arguments.models.split(","):
            make, loads_of = MODELS[kind]
            served, loads = make(Path(folder)), loads_of()
            for mib in map(int, arguments.memory.split(",")):
                for load in (load for load in loads if arguments.requests in load.name):
                    outcome = measure(served, mib, load, arguments.seconds)
                    rows.append(row(kind, mib, load, outcome))
                    print(rows[-1], flush=True)
                    if outcome is None:
                        break
                    has_failed |= bool(outcome.was_killed or outcome.wrong or outcome.never or outcome.failures)
    what = f"Written by `make bench-limits` on {date.today()}. A task that is too small for its model does not start."
    write_section("Limits", f"{what}\n\n" + "\n".join((*HEAD, *rows)))
    sys.exit(has_failed)


def row(kind: str, mib: int, load: Load, outcome: Outcome | None) -> str:
    """Returns a line of the table."""
    if outcome is None:
        return f"| {kind} | {mib} | (does not start) |" + " |" * 9
    alone, together = outcome.goodput
    end = "**killed**, " if outcome.was_killed else ""
    never = f"{outcome.never} of {outcome.refused}"
    return (
        f"| {kind} | {mib} | {load.name} | {outcome.body / 1e6:.1f} | {listed(outcome.alone)} | {alone:.1f} "
        f"| {together:.1f} | {end}{listed(outcome.statuses)} | {outcome.wrong} | {never} | {outcome.peak_mib} "
        f"| {outcome.slowest_check:.2f} |"
    )


def listed(statuses: Statuses) -> str:
    """Returns the statuses with their counts."""
    return ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items(), key=str))


def measure(served: Served, mib: int, load: Load, seconds: float) -> Outcome | None:
    """Returns what happens to a new container; None if it does not become ready."""
    with container(served, mib) as (identifier, url):
        if not is_ready(identifier, url):
            log = subprocess.run(["podman", "logs", identifier], check=False, capture_output=True, text=True)
            print(log.stdout[-1000:], log.stderr[-2000:], file=sys.stderr)
            return None
        outcome = Outcome()
        clients = Clients(url, load, outcome)
        clients.choose_largest()
        clients.run_alone(seconds)
        clients.run(CLIENTS, seconds)
        outcome.was_killed = not is_running(identifier)
        outcome.peak_mib = peak_mib(identifier)
        return outcome


@contextmanager
def container(served: Served, mib: int) -> Iterator[tuple[str, str]]:
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
        "MODEL_DIR": str(served.model_dir),
        "TASK_CPU_UNITS": "1024",
        "TASK_MEMORY_MIB": str(mib),
        **served.environment,
    }
    command = [
        *("podman", "--runtime=runc", "run", "--detach", "--net=host", f"--memory={mib}m", f"--memory-swap={mib}m"),
        "--timeout=600",  # also if this process is killed
        *("--ulimit=nofile=1024:4096", "--ulimit=nproc=4096:4096", f"--workdir={served.source}"),
        *(f"--env={name}={value}" for name, value in environment.items()),
        *("--rootfs", "/:O", sys.executable, *ENTRY_POINT),
    ]
    # Its monitor leaves a file where it was started if the kernel kills a process.
    where = tempfile.gettempdir()
    identifier = subprocess.run(command, check=True, capture_output=True, text=True, cwd=where).stdout.strip()
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


if __name__ == "__main__":
    main()

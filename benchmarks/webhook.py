"""Sends signed events to the webhook service: events per second, response time, and memory growth.

    make bench-webhook        or: python -m benchmarks.webhook

The service runs in a separate process on one core, with waitress and its log, over deployments and a registry in
memory. The sender is another process on the other cores, keeps its connections open, and signs before it measures. Each
event has a unique delivery ID and is about a watched model, so each one wakes the service.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import http.client
import json
import multiprocessing
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import psutil

from mlflow_fargate.webhook.control_loop.model_registry import ModelState
from mlflow_fargate.webhook.control_loop.worker import Worker
from mlflow_fargate.webhook.http.app import create_app
from mlflow_fargate.webhook.http.server import Server
from mlflow_fargate.webhook.logs import set_up_logs

SECRET = "benchmark"
MODELS = 50
CONNECTIONS = 4
WANTED_RATE, WANTED_P99_MILLISECONDS, WANTED_GROWTH = 500.0, 20.0, 1.05


class Deployments:
    """Fifty deployments at the versions in the registry."""

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        return [
            {
                "name": f"d{number}", "model_name": f"model-{number}", "model_version": "1", "follow": "Production",
                "state": "COMPLETED",
            }
            for number in range(MODELS)
        ]  # fmt: skip


class Registry:
    """A registry with version 1 of every model in Production."""

    def look(self, names: Any, **_: Any) -> dict[str, ModelState]:
        return {name: ModelState({"Production": ("1",)}, {}) for name in names}

    def look_closely(self, name: str) -> ModelState | None:
        return ModelState({"Production": ("1",)}, {})


@dataclass(frozen=True)
class Result:
    """The measurements."""

    events: int
    seconds: float
    p50_milliseconds: float
    p99_milliseconds: float
    memory_before: int  # bytes, after a third of the events
    memory_after: int

    @property
    def rate(self) -> float:
        return self.events / self.seconds

    @property
    def is_good(self) -> bool:
        is_flat = self.memory_after <= WANTED_GROWTH * self.memory_before
        return self.rate >= WANTED_RATE and self.p99_milliseconds < WANTED_P99_MILLISECONDS and is_flat


def serve(told: Connection, core: int) -> None:
    """Runs the service on one core; sends its port through the pipe."""
    os.sched_setaffinity(0, {core})
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    set_up_logs(as_json=True)
    deployments: Any = Deployments()
    worker = Worker(connect=lambda: deployments, registry=Registry())
    server = Server(create_app(worker, (SECRET,)), host="127.0.0.1", port=0)
    worker.start()
    while not worker.is_ready:
        time.sleep(0.01)
    told.send(server.effective_port)
    server.run()


@contextmanager
def running_service(core: int) -> Iterator[tuple[int, psutil.Process]]:
    """Yields the port and process of the service."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, core), daemon=True)
    process.start()
    try:
        yield ours.recv(), psutil.Process(process.pid)
    finally:
        process.kill()
        process.join()


def make_requests(count: int) -> list[tuple[bytes, dict[str, str]]]:
    """Returns bodies and headers as MLflow creates them."""
    made = []
    moment = str(int(time.time()))
    for number in range(count):
        data = {"name": f"model-{number % MODELS}", "alias": "champion", "version": "1"}
        body = json.dumps({"entity": "model_version_alias", "action": "created", "data": data}).encode()
        content = f"delivery-{number}.{moment}.".encode() + body
        signature = base64.b64encode(hmac.new(SECRET.encode(), content, hashlib.sha256).digest()).decode()
        headers = {
            "Content-Type": "application/json",
            "X-MLflow-Signature": f"v1,{signature}",
            "X-MLflow-Delivery-Id": f"delivery-{number}",
            "X-MLflow-Timestamp": moment,
        }
        made.append((body, headers))
    return made


def send(port: int, events: Sequence[tuple[bytes, dict[str, str]]], rate: float) -> list[float]:
    """Returns the seconds until each 202, for events sent at a steady rate over one connection."""
    waits = []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    began = time.perf_counter()
    for number, (body, headers) in enumerate(events):
        due = began + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        sent = time.perf_counter()
        connection.request("POST", "/events", body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 202:
            raise SystemExit(f"an event was answered with {answer.status}")
        waits.append(time.perf_counter() - sent)
    connection.close()
    return waits


def send_all(port: int, events: list[tuple[bytes, dict[str, str]]], rate: float) -> tuple[list[float], float]:
    """Returns all response times, and the total seconds."""
    waits: list[float] = []
    parts = [events[number::CONNECTIONS] for number in range(CONNECTIONS)]
    threads = [
        threading.Thread(target=lambda part=part: waits.extend(send(port, part, rate / CONNECTIONS))) for part in parts
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return waits, time.perf_counter() - began


def measure(events: int, rate: float) -> Result:
    """Sends a third to warm up, then the rest; `rate` is the total rate."""
    *others, core = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others or {core})
    with running_service(core) as (port, process):
        requests = make_requests(events)
        warm_up = events // 3
        send_all(port, requests[:warm_up], rate)
        before = process.memory_info().rss
        waits, seconds = send_all(port, requests[warm_up:], rate)
        after = process.memory_info().rss
    quantiles = statistics.quantiles(waits, n=100)
    return Result(len(waits), seconds, quantiles[49] * 1000, quantiles[98] * 1000, before, after)


def main() -> int:
    """Prints the measurements; returns 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=45_000)
    parser.add_argument("--rate", type=float, default=550.0, help="events a second")
    given = parser.parse_args()
    result = measure(given.events, given.rate)
    print(f"{result.events} signed events accepted, {result.rate:.0f} per second, on one core")
    print(
        f"response time {result.p50_milliseconds:.1f} ms (median), {result.p99_milliseconds:.1f} ms (99th percentile)"
    )
    print(f"memory {result.memory_before / 1e6:.1f} MB after a third, {result.memory_after / 1e6:.1f} MB at the end")
    return 0 if result.is_good else 1


if __name__ == "__main__":
    sys.exit(main())

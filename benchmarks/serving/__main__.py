"""Compares the service with other servers of the same models: `python -m benchmarks.serving` (make bench-serving).

Every server runs at the best setting that its documentation gives, in an environment with the same libraries, and must
give the same answers before it is timed. The servers of a case run side by side, and each gets its bursts in turn, so
that what else the machine does meets all of them. The client is wrk. "CPU ms" is that of all processes of a server per
request, "PSS" their proportional set size, "start" the time from the command to the first answer.

    --models linear,xgboost      only these models         --peers "FastAPI;MLServer"  only these, by the start of names
    --seconds 1 --rounds 3     each burst                --no-write                  only prints
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psutil
import requests

from benchmarks.results_page import find_processor, write_section
from benchmarks.serving.cases import CASES, Case, read_answer
from benchmarks.serving.environments import main_versions
from benchmarks.serving.peers import OURS, PEERS, RECORDED, Peer, floor_command, free_port, make_models
from benchmarks.serving.summary import Line, summarize, table_of
from benchmarks.serving.wrk import Request, Sample, burst, cpu_seconds_of, end, medians, memory_mb

CLIENTS = (1, 32)
_START_SECONDS = 120


@dataclass(frozen=True)
class Running:
    peer: Peer
    url: str
    pid: int
    request: Request
    answer: list[object]
    start: tuple[float, float]  # seconds, CPU seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="")
    parser.add_argument("--peers", default="")
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    names = [name for name in options.peers.split(";") if name]
    cases = [case for case in CASES if not options.models or case.model in options.models.split(",")]
    peers = [one for one in PEERS if not names or one.name == OURS or one.name.startswith(tuple(names))]
    pieces, lines = [], dict[Case, list[Line]]()
    with tempfile.TemporaryDirectory() as name:
        models = Path(name)
        subprocess.run(make_models(models), check=True, capture_output=True)
        for case in cases:
            chosen = [one for one in peers if one.serves(case) and not (case.one_core and not _is_light(one))]
            lines[case] = measure(case, chosen, models, case.slowness * options.seconds, options.rounds)
            pieces.append(f"## {case.title}\n\n{table_of(lines[case])}")
            print(pieces[-1], flush=True)
    summary = summarize(lines)
    print(summary)
    if not options.no_write:
        write_section("Serving", "\n\n".join([describe(options.seconds, options.rounds), summary, *pieces]))


def _is_light(peer: Peer) -> bool:
    return peer.name in (
        OURS,
        RECORDED,
        "mlflow",
        "BentoML",
        "FastAPI, array",
        "FastAPI, DataFrame",
        "MLServer, batches",
    )


def describe(seconds: int, rounds: int) -> str:
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        f"Written by `make bench-serving` on {date.today().isoformat()}: medians of {rounds} rounds, in which every "
        f"server gets bursts of {seconds} s in turn (6 s for JPEGs).\nCompare figures inside one table only.\n\n"
        f"{find_processor()}, {os.cpu_count()} CPUs, {memory_gib:.0f} GiB; Python {platform.python_version()}; "
        f"{main_versions()}.\nLoad when it ended: {os.getloadavg()[0]:.1f}."
    )


def measure(case: Case, peers: list[Peer], models: Path, seconds: int, rounds: int) -> list[Line]:
    body = case.body(models)
    lines = []
    with contextlib.ExitStack() as stack:
        running = []
        for peer in peers:
            try:
                running.append(stack.enter_context(started(peer, case, models, body)))
                print(f"started {peer.name} for {case.title}", file=sys.stderr, flush=True)
            except RuntimeError as error:
                lines.append(Line(peer.name, failure=str(error)))
        expected = running[0].answer
        for one in [one for one in running if one.answer != expected]:
            lines.append(Line(one.peer.name, failure=f"answers {str(one.answer)[:60]}, not {str(expected)[:60]}"))
            running.remove(one)
        samples: dict[str, dict[int, list[Sample]]] = {
            one.peer.name: {count: [] for count in CLIENTS} for one in running
        }
        for one in running:
            burst(one.url, one.request, one.pid, clients=8, seconds=1)
        for _ in range(rounds):
            for clients in CLIENTS:
                for one in running:
                    sample = burst(one.url, one.request, one.pid, clients=clients, seconds=seconds)
                    samples[one.peer.name][clients].append(sample)
        for one in running:
            single, many = (medians(samples[one.peer.name][clients]) for clients in CLIENTS)
            lines.append(Line(one.peer.name, single, many, memory_mb(one.pid), one.start))
        request = running[0].request
    return [*floors(case, models, request, seconds), *lines]


def floors(case: Case, models: Path, request: Request, seconds: int) -> list[Line]:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(request.body)
        found = []
        for count in (1, 32):
            command = floor_command(case, Path(file.name), request.media_type, count, 2 * seconds)
            variables = {**os.environ, "BENCH_MODEL": str(models / case.model)}
            text = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout
            rate, p50 = map(float, text.split()[-2:])
            found.append((rate, p50))
    return [Line("floor: parse or decode, and predict", floor=(found[0], found[1]))]


@contextlib.contextmanager
def started(peer: Peer, case: Case, models: Path, body: bytes) -> Iterator[Running]:
    """Starts a server; RuntimeError if it does not start, or refuses the request."""
    with tempfile.TemporaryDirectory() as name:
        port = free_port()
        plan = peer.start(case, models, Path(name), port)
        url, request = f"http://127.0.0.1:{port}", peer.request(case, body)
        command = ["taskset", "-c", "0", *plan.command] if case.one_core else plan.command
        began = time.monotonic()
        with (Path(name) / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=plan.folder,
                env={**os.environ, **plan.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until_ready(f"{url}{plan.health}", process)
            headers = {"Content-Type": request.media_type}
            response = requests.post(url + request.path, data=request.body, headers=headers, timeout=60)
            if response.status_code != 200:
                raise RuntimeError(f"status {response.status_code}: {response.text[:200]}")
            start = (time.monotonic() - began, cpu_seconds_of(process.pid))
            yield Running(peer, url, process.pid, request, read_answer(response.content), start)
        finally:
            end(process.pid)
            process.wait()


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(requests.RequestException):
            if requests.get(url, timeout=2).ok:
                return
        time.sleep(0.05)
    raise RuntimeError("did not start")


if __name__ == "__main__":
    main()

"""Measures a server with wrk, whose client costs little, and the CPU time and memory of the server's processes."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

_SCRIPT = """
wrk.method = "POST"
local file = io.open(os.getenv("BENCH_BODY"), "rb")
wrk.body = file:read("*a")
file:close()
wrk.headers["Content-Type"] = os.getenv("BENCH_TYPE")
"""
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True)
class Request:
    """What a server gets again and again."""

    path: str
    body: bytes
    media_type: str


@dataclass(frozen=True)
class Sample:
    """One burst: requests per second, milliseconds, CPU milliseconds of the server's processes per request."""

    rate: float
    p50: float
    p99: float
    cpu: float


def medians(samples: Iterable[Sample]) -> Sample:
    columns = zip(*((one.rate, one.p50, one.p99, one.cpu) for one in samples), strict=True)
    return Sample(*map(median, columns))


def burst(url: str, request: Request, pid: int, *, clients: int, seconds: int) -> Sample:
    """Sends `request` from `clients` connections; RuntimeError if one fails."""
    with tempfile.TemporaryDirectory() as name:
        body, script = Path(name) / "body", Path(name) / "post.lua"
        body.write_bytes(request.body)
        script.write_text(_SCRIPT)
        before = _cpu_seconds(pid)
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout=30s", "--latency", f"-s{script}"]
        variables = {**os.environ, "BENCH_BODY": str(body), "BENCH_TYPE": request.media_type}
        text = subprocess.run(
            [*command, url + request.path], env=variables, capture_output=True, text=True, check=True
        ).stdout
        used = _cpu_seconds(pid) - before
    if "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(f"{url}{request.path} failed:\n{text}")
    count = int(_find(r"(\d+) requests in", text)[0])
    rate = float(_find(r"Requests/sec:\s+([\d.]+)", text)[0])
    p50, p99 = (float(_find(rf"{share}%\s+([\d.]+)", text)[0]) for share in (50, 99))
    units = [_MILLISECONDS[_find(rf"{share}%\s+[\d.]+(us|ms|s|m)\b", text)[0]] for share in (50, 99)]
    return Sample(rate, p50 * units[0], p99 * units[1], 1000 * used / max(count, 1))


def memory_mb(pid: int) -> float:
    """Returns the proportional set size of a process and its descendants."""
    return float(sum(one.memory_full_info().pss for one in _processes(pid)) / 10**6)


def end(pid: int) -> None:
    """Kills a process and its descendants, one by one: some servers start theirs in sessions of their own."""
    for one in _processes(pid):
        with contextlib.suppress(psutil.Error):
            one.kill()


def cpu_seconds_of(pid: int) -> float:
    """Returns the CPU time of a process and its descendants until now."""
    return _cpu_seconds(pid)


def _cpu_seconds(pid: int) -> float:
    total = 0.0
    for one in _processes(pid):
        with contextlib.suppress(psutil.Error):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def _processes(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def _find(pattern: str, text: str) -> tuple[str, ...]:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"wrk printed no {pattern!r}:\n{text}")
    return found.groups()

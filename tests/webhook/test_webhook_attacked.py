"""Attacks the service as a process, with thousands of sockets that send slowly or nothing, and asks for its health."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from mlflow_fargate.webhook.control_loop.worker import Worker
from mlflow_fargate.webhook.http.access import Access
from mlflow_fargate.webhook.http.app import create_app
from mlflow_fargate.webhook.http.server import Server

SERVE = """
import os
from mlflow_fargate.webhook.serve import serve
from mlflow_fargate.webhook.settings import parse_settings
serve(parse_settings(os.environ))
"""
SOCKETS = 5_000
ATTACK_SECONDS = 20  # longer than a request may take to arrive
BEGINNINGS = {
    "nothing": b"",
    "half a request line": b"POST /eve",
    "headers without an end": b"POST /events HTTP/1.1\r\nHost: hooks\r\nX-Slow: ",
    "a body without an end": b"POST /events HTTP/1.1\r\nHost: hooks\r\nContent-Length: 60000\r\n\r\n{",
    "chunks without an end": b"POST /events HTTP/1.1\r\nHost: hooks\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n",
}


@contextlib.contextmanager
def service(folder: Path, **settings: str) -> Iterator[tuple[str, Path]]:
    """Runs the service; yields its URL and its log."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "FARGATE_TARGET": "fargate:/nowhere",
        "FARGATE_WEBHOOK_PORT": "0",
        "FARGATE_WEBHOOK_LOG": "text",
        **settings,
    }
    log = folder / "service.log"
    with log.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-c", SERVE], env=environment, cwd=folder, stderr=stream)
    try:
        deadline = time.monotonic() + 240
        while "service on http" not in (said := log.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, said
            time.sleep(0.05)
        yield said.partition("service on ")[2].split()[0], log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def most_sockets() -> Iterator[int]:
    """Raises this process's limit on open files; returns how many sockets it allows, and says if they are fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SOCKETS + 500
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    if allowed < wanted:
        warnings.warn(f"only {allowed - 500} sockets instead of {SOCKETS}: ulimit -Hn is {hard}", stacklevel=1)
    yield min(SOCKETS, allowed - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class SlowSockets:
    """Keeps `number` sockets open that send a byte now and then; each that is closed is replaced at once."""

    def __init__(self, address: tuple[str, int], number: int) -> None:
        self.opened = self.closed_by_service = 0
        self._address, self._number = address, number
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> SlowSockets:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            drip = 0.0
            while not self._is_over.is_set():
                while len(selector.get_map()) < self._number and not self._is_over.is_set():
                    self._open(selector)
                    self._drop_closed(selector, 0)
                self._drop_closed(selector, 0.05)
                if time.monotonic() - drip > 2:
                    drip = time.monotonic()
                    for key in list(selector.get_map().values()):
                        if key.data:
                            with contextlib.suppress(OSError):
                                key.fileobj.send(b"a")  # type: ignore[union-attr]
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]

    def _open(self, selector: selectors.BaseSelector) -> None:
        beginning = list(BEGINNINGS.values())[self.opened % len(BEGINNINGS)]
        with contextlib.suppress(OSError):
            connection = socket.create_connection(self._address, timeout=2)
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ, beginning)
            self.opened += 1
            connection.send(beginning)

    def _drop_closed(self, selector: selectors.BaseSelector, seconds: float) -> None:
        for key, _ in selector.select(seconds):
            selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]
            self.closed_by_service += 1


@pytest.mark.slow
@pytest.mark.exhaustive
def test_health_is_answered_within_a_second_while_thousands_of_sockets_send_slowly(
    tmp_path: Path, most_sockets: int
) -> None:
    with service(tmp_path) as (url, log):
        parts = urlsplit(url)
        seconds: list[float] = []
        with SlowSockets((parts.hostname or "", parts.port or 0), most_sockets) as attack:
            end = time.monotonic() + ATTACK_SECONDS
            while time.monotonic() < end:
                began = time.monotonic()
                assert requests.get(f"{url}/healthz", timeout=30).status_code == 200
                seconds.append(time.monotonic() - began)
                time.sleep(0.05)
        p99 = sorted(seconds)[int(len(seconds) * 0.99)]
        print(f"{attack.opened} sockets, {len(seconds)} checks, p99 {p99:.3f} s, max {max(seconds):.3f} s")
        assert attack.opened >= most_sockets
        assert len(seconds) >= 50
        assert p99 < 1
        assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    with service(tmp_path_factory.mktemp("service")) as started:
        yield started


@pytest.mark.slow
def test_a_request_that_does_not_arrive_in_time_is_dropped_even_if_it_trickles(running: tuple[str, Path]) -> None:
    def seconds_until_dropped(beginning: bytes) -> float:
        parts = urlsplit(running[0])
        began = time.monotonic()
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection((parts.hostname or "", parts.port or 0), timeout=0.5) as connection,
        ):
            connection.send(beginning)
            while time.monotonic() - began < 60:
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1):
                        break
                connection.send(beginning[-1:])
        return time.monotonic() - began

    with ThreadPoolExecutor(len(BEGINNINGS)) as pool:
        lasted = dict(zip(BEGINNINGS, pool.map(seconds_until_dropped, BEGINNINGS.values()), strict=True))

    assert {kind: seconds for kind, seconds in lasted.items() if not 5 < seconds < 55} == {}


@pytest.mark.slow
def test_a_connection_that_is_kept_open_between_requests_is_not_dropped(running: tuple[str, Path]) -> None:
    with requests.Session() as session:
        ports = []
        for pause in (12, 0):  # longer than a request may take to arrive
            response = session.get(f"{running[0]}/healthz", stream=True, timeout=30)
            ports.append(response.raw.connection.sock.getsockname())
            assert response.json() == {"ok": True}
            time.sleep(pause)
        assert ports[0] == ports[1]


@pytest.mark.slow
def test_refused_events_fill_no_log_and_missing_secrets_are_reported_at_the_start(running: tuple[str, Path]) -> None:
    url, log = running
    with requests.Session() as session:
        for _ in range(500):
            assert session.post(f"{url}/events", data=b"{}", timeout=30).status_code == 401
        said = log.read_text()

    assert said.count("event refused") <= 40  # two minutes, if one ends meanwhile
    assert "no secret is set: events are refused" in said
    assert "no token is set (FARGATE_WEBHOOK_TOKEN): the page, /status, /metrics and retry are closed" in said


@pytest.mark.parametrize(("is_behind_proxy", "statuses"), [(True, (401, 403)), (False, (403, 403))])
def test_the_clients_address_is_taken_from_the_load_balancer_only_if_there_is_one(
    worker: Worker, is_behind_proxy: bool, statuses: tuple[int, int]
) -> None:
    access = Access("t0ken", allowed_cidrs=(ipaddress.ip_network("192.0.2.0/24"),))
    server = Server(create_app(worker, (), access), host="127.0.0.1", port=0, is_behind_proxy=is_behind_proxy)
    threading.Thread(target=server.run, daemon=True).start()
    try:
        for came_through, status in zip(("203.0.113.9, 192.0.2.1", "192.0.2.1, 203.0.113.9"), statuses, strict=True):
            url, headers = f"http://127.0.0.1:{server.effective_port}/events", {"X-Forwarded-For": came_through}
            assert requests.post(url, headers=headers, timeout=30).status_code == status
    finally:
        server.close()

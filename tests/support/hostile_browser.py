"""A browser with a hostile page, whose requests of every kind reach a server through a relay that records responses.

Each attacked server gets a relay on another port. To the browser, the relay is the server, so it also does what DNS
rebinding does: the page itself comes from the relay under the attacker's name, and its later requests reach the server.
The relay changes nothing but `Connection`, so that each connection carries one request.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import shutil
import socket
import socketserver
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from support.serving_process import stop_group

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NAME = "page.example.org"  # resolves to this machine, in the browser only
_PAGE = (Path(__file__).parent / "hostile_page.html").read_bytes()
_WEBSOCKET = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_ARRIVE_SECONDS = 30  # for all of a page's attacks
_ALL_SECONDS = 600

Answers = dict[str, list[tuple[str, int]]]
"""What a server responded: the attack → method and status of each of its requests."""


class Attacker:
    """The pages to show, one after another, and what the attacked server responded to each."""

    def __init__(self) -> None:
        self.answers: dict[str, Answers] = {}
        self.attacks: list[str] = []
        self.is_done = threading.Event()
        self._pages: Iterator[tuple[str, str]] = iter(())
        self._current = ""
        self._arrived = threading.Condition()

    def show(self, pages: dict[str, str]) -> str:
        """Sets the pages, by a name for each, and returns the first one's address."""
        self._pages = iter(pages.items())
        return self.next()

    def next(self) -> str:
        self._current, address = next(self._pages, ("", "about:blank"))
        self.answers.setdefault(self._current, defaultdict(list))
        if not self._current:
            self.is_done.set()
        return address

    def record(self, attack: str, method: str, status: int) -> None:
        with self._arrived:
            self.answers[self._current][attack].append((method, status))
            self._arrived.notify_all()

    def wait_until_all_arrived(self) -> None:
        """Waits until the server has responded to every attack of the current page: a preflight alone may be all."""
        with self._arrived:
            self._arrived.wait_for(self._is_complete, _ARRIVE_SECONDS)

    def _is_complete(self) -> bool:
        seen = self.answers[self._current]
        return all(any(method != "OPTIONS" or status == 403 for method, status in seen[name]) for name in self.attacks)


class _Relay(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 200

    def __init__(self, attacker: Attacker, target_port: int | None) -> None:
        self.attacker = attacker
        self.target_port = target_port
        super().__init__(("127.0.0.1", 0), _Connection)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Connection(socketserver.BaseRequestHandler):
    server: _Relay

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            head, rest = read_head(self.request)
            method, path = head.split(" ", 2)[:2] if head else ("", "")
            if path.startswith("/__attacker__/"):
                self._answer_page(path, head, rest)
            elif self.server.target_port is not None and "attack=" in path:
                self._relay(method, path, head, rest)

    def _relay(self, method: str, path: str, head: str, rest: bytes) -> None:
        is_upgrade = re.search(r"(?mi)^upgrade:", head)
        sent = head if is_upgrade else re.sub(r"(?mi)^connection:.*\r\n", "", head) + "Connection: close\r\n"
        with socket.create_connection(("127.0.0.1", self.server.target_port or 0), timeout=30) as target:
            target.sendall(f"{sent}\r\n".encode("latin-1") + rest)
            threading.Thread(target=_pump, args=(self.request, target), daemon=True).start()
            answer, body = read_head(target)
            status = int(answer.split(" ")[1]) if answer else 0
            attack = parse_qs(urlsplit(path).query)["attack"][0]
            self.server.attacker.record(attack, method, status)
            if status != 101:
                self.request.sendall(f"{answer}\r\n".encode("latin-1") + body)
                _pump(target, self.request)

    def _answer_page(self, path: str, head: str, rest: bytes) -> None:
        attacker, parts = self.server.attacker, urlsplit(path)
        to = unquote(parse_qs(parts.query).get("to", [""])[0])
        match parts.path.rpartition("/")[2]:
            case "page":
                self._send("200 OK", _PAGE, "Content-Type: text/html")
            case "started":
                length = int(re.search(r"(?mi)^content-length: *(\d+)", head)[1])  # type: ignore[index]
                while len(rest) < length:
                    rest += self.request.recv(65536)
                attacker.attacks = json.loads(rest)
                self._send("204 No Content")
            case "next":
                attacker.wait_until_all_arrived()
                self._send("200 OK", attacker.next().encode())
            case "redirect":
                cors = ("Access-Control-Allow-Origin: *",)
                self._send("307 Temporary Redirect", b"", f"Location: {to}", *cors)
            case "reporting":
                policy = f"Content-Security-Policy: img-src 'none'; report-uri {to}"
                self._send("200 OK", b"<img src='/x.png'>", "Content-Type: text/html", policy)

    def _send(self, status: str, body: bytes = b"", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
        self.request.sendall("\r\n".join(lines).encode() + body)


class UnguardedServer(socketserver.ThreadingTCPServer):
    """Accepts every request of every page, and every WebSocket: what a server without the guard can be made to do."""

    daemon_threads = True
    request_queue_size = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Unguarded)


class _Unguarded(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        head, _ = read_head(self.request)
        named = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.split("\r\n"))}
        if "sec-websocket-key" in named:
            digest = hashlib.sha1(f"{named['sec-websocket-key']}{_WEBSOCKET}".encode()).digest()
            accepted = base64.b64encode(digest).decode()
            said = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accepted}"
            self.request.sendall(f"HTTP/1.1 101 Switching Protocols\r\n{said}\r\n\r\n".encode())
            return
        lines = [
            f"Access-Control-Allow-Origin: {named.get('origin', '*')}",
            "Access-Control-Allow-Credentials: true",
            "Access-Control-Allow-Methods: GET, POST, PUT, PATCH, DELETE",
            f"Access-Control-Allow-Headers: {named.get('access-control-request-headers', '*')}",
            "Content-Type: text/plain",
            "Content-Length: 0",
            "Connection: close",
        ]
        self.request.sendall(("HTTP/1.1 200 OK\r\n" + "\r\n".join(lines) + "\r\n\r\n").encode())
        while self.request.recv(65536):
            pass


def read_head(connection: socket.socket) -> tuple[str, bytes]:
    """Returns a request's or response's head, with its last line's end, and what has arrived of the body."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return "", b""
        received += piece
    head, _, rest = received.partition(b"\r\n\r\n")
    return f"{head.decode('latin-1')}\r\n", rest


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)


@contextlib.contextmanager
def serving(servers: Iterable[socketserver.ThreadingTCPServer]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(server.shutdown)
        yield


def attack(ports: dict[str, int], folder: Path) -> dict[str, Answers]:
    """Attacks each server from three origins: another site, another port of this machine, and its own by rebinding.

    Returns the answers by 'SERVER from ORIGIN'.
    """
    attacker = Attacker()
    relays = {name: _Relay(attacker, port) for name, port in ports.items()}
    home = _Relay(attacker, None)
    with serving([home, *relays.values()]):
        pages = {}
        for name, relay in relays.items():
            pages[f"{name} from another site"] = _page(f"{NAME}:{home.port}", f"127.0.0.1:{relay.port}")
            pages[f"{name} from another port"] = _page(f"127.0.0.1:{home.port}", f"127.0.0.1:{relay.port}")
            pages[f"{name} from a rebound name"] = _page(f"{NAME}:{relay.port}", f"{NAME}:{relay.port}")
        with _browser(attacker.show(pages), folder):
            assert attacker.is_done.wait(_ALL_SECONDS), f"the browser stopped at {list(attacker.answers)[-1]}"
    return {
        name: {attack: answers.get(attack, []) for attack in attacker.attacks}
        for name, answers in attacker.answers.items()
        if name
    }


def _page(place: str, target: str) -> str:
    return f"http://{place}/__attacker__/page?target=http://{target}"


@contextlib.contextmanager
def _browser(address: str, folder: Path) -> Iterator[None]:
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--no-proxy-server", "--disable-popup-blocking", f"--host-resolver-rules=MAP {NAME} 127.0.0.1"]
    command += [f"--user-data-dir={folder}", "--remote-debugging-port=0", address]
    with (folder / "chromium.log").open("wb") as log:
        process: subprocess.Popen[Any] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            yield
        finally:
            stop_group(process, 10)

"""Measures a command: wall time, CPU seconds including child processes, bytes sent and received."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_CHUNK_BYTES = 1 << 18
_FIGURE = re.compile(r"^figure: (\w+)=([0-9.]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Cost:
    """The measurements of one command."""

    wall_seconds: float
    cpu_seconds: float
    sent_bytes: int
    received_bytes: int
    said: Mapping[str, float]  # what the command printed as NAME=NUMBER after "figure: "


class CountingProxy:
    """Forwards connections to `127.0.0.1:upstream`, and counts the bytes in both directions."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._lock = threading.Lock()
        self.sent_bytes = self.received_bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                threading.Thread(target=self._pass_on, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_upload: bool) -> None:
        with suppress(OSError):
            while chunk := source.recv(_CHUNK_BYTES):
                target.sendall(chunk)
                with self._lock:
                    self.sent_bytes += len(chunk) if is_upload else 0
                    self.received_bytes += 0 if is_upload else len(chunk)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def run(script: str, *, environment: Mapping[str, str], log: Path, proxy: CountingProxy) -> Cost:
    """Runs a shell script and measures it; its output goes to `log`, whose end is shown if it fails."""
    # `make` turns off bytecode compilation, which an installation would have done.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    sent, received, began = proxy.sent_bytes, proxy.received_bytes, time.monotonic()
    with log.open("ab") as output:
        written = output.tell()
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            env={**inherited, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"The command failed; the end of {log}:\n{log.read_text(errors='replace')[-3000:]}")
    return Cost(
        wall_seconds=time.monotonic() - began,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        sent_bytes=proxy.sent_bytes - sent,
        received_bytes=proxy.received_bytes - received,
        said={
            name: float(value) for name, value in _FIGURE.findall(log.read_bytes()[written:].decode(errors="replace"))
        },
    )

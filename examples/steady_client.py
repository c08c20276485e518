"""A client that sends requests without pause and records the responses, to show whether callers notice a redeploy."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

import requests

# Often enough to catch every phase of a redeploy, without loading the machine.
_PAUSE_SECONDS = 0.05


class SteadyClient:
    """Sends one image over and over, from a thread, while it is open."""

    def __init__(self, url: str, picture: Path) -> None:
        self._url = url
        self._bytes = picture.read_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send_until_stopped, daemon=True)
        self.requests = 0
        self.failures = 0
        self.versions: list[str] = []
        self.first_answers: dict[str, float] = {}  # version → time.monotonic() of its first answer

    def __enter__(self) -> SteadyClient:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _send_until_stopped(self) -> None:
        with requests.Session() as session:
            while not self._stop.wait(_PAUSE_SECONDS):
                self._send(session)

    def _send(self, session: requests.Session) -> None:
        self.requests += 1
        try:
            files = {"image": ("test_image", self._bytes)}
            answer = session.post(self._url + "/predict_image", files=files, timeout=30)
            answer.raise_for_status()
            answer.json()["label"]
        except (requests.RequestException, KeyError, ValueError) as error:
            self.failures += 1
            print(f"failed request: {error}", flush=True)
            return
        version = answer.headers.get("X-Model-Version", "unknown")
        self.first_answers.setdefault(version, time.monotonic())
        if self.versions[-1:] != [version]:
            self.versions.append(version)

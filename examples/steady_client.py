"""A client that never stops asking, and remembers what it got: how one sees whether a redeploy was noticed."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType

import requests

# Often enough to meet every moment of a redeploy, and leaves the machine to those who work.
_PAUSE_SECONDS = 0.05


class SteadyClient:
    """Asks about one picture over and over, from a thread, while it is open."""

    def __init__(self, url: str, picture: Path) -> None:
        self._url = url
        self._bytes = picture.read_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask_until_stopped, daemon=True)
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

    def _ask_until_stopped(self) -> None:
        with requests.Session() as session:
            while not self._stop.wait(_PAUSE_SECONDS):
                self._ask(session)

    def _ask(self, session: requests.Session) -> None:
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

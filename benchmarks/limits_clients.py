"""The clients of benchmarks/limits.py: they send until the time is over, and repeat what is refused for now."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import requests

from benchmarks.limits_loads import Load

REPEAT_SECONDS = 60

Statuses = Counter[int | str]


@dataclass
class Outcome:
    """What clients saw, and what became of the container."""

    body: int = 0  # the size of the largest body that is sent
    alone: Statuses = field(default_factory=Counter)  # statuses of one client
    statuses: Statuses = field(default_factory=Counter)  # and of many
    alone_seconds: float = 0.0
    seconds: float = 0.0  # until the last answer
    answers: dict[bytes, bytes] = field(default_factory=dict)  # the first to each body
    wrong: int = 0  # that differ from it
    refused: int = 0  # requests with a 503
    never: int = 0  # of these, the ones that did not succeed within REPEAT_SECONDS
    slowest_check: float = 0.0
    peak_mib: int = 0
    was_killed: bool = False

    @property
    def goodput(self) -> tuple[float, float]:
        """Requests with 200 per second, of one client and of many."""
        return self.alone[200] / self.alone_seconds, self.statuses[200] / self.seconds

    @property
    def failures(self) -> int:
        """Responses that are neither an answer nor a limit's."""
        permitted = {200, 400, 413, 415, 503}
        return sum(count for status, count in (self.alone + self.statuses).items() if status not in permitted)


class Clients:
    """Clients of one service, who share an outcome."""

    def __init__(self, url: str, load: Load, outcome: Outcome) -> None:
        self._url = url
        self._load = load
        self._outcome = outcome
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self.bodies = list(load.bodies)

    def choose_largest(self) -> None:
        """Keeps the first body that is not too large for the service."""
        if self._load.is_largest:
            sizes = itertools.dropwhile(lambda body: self._post(requests.Session(), body)[0] == 413, self.bodies)
            self.bodies = [next(sizes, self.bodies[-1])]
        self._outcome.body = max(map(len, self.bodies))

    def run_alone(self, seconds: float) -> None:
        """Sends as one client; each body at least once."""
        began = time.monotonic()
        self._numbers = itertools.count()
        self._send(began + seconds, self._outcome.alone)
        self._outcome.alone_seconds = time.monotonic() - began

    def run(self, count: int, seconds: float) -> None:
        """Sends as `count` clients, and checks the service's health meanwhile."""
        began, end = time.monotonic(), time.monotonic() + seconds
        self._numbers = itertools.count()
        is_over = threading.Event()
        threads = [threading.Thread(target=self._send, args=(end, self._outcome.statuses)) for _ in range(count)]
        checks = threading.Thread(target=self._check, args=(is_over,))
        for one in (*threads, checks):
            one.start()
        for one in threads:
            one.join()
        self._outcome.seconds = time.monotonic() - began
        is_over.set()
        checks.join()

    def _send(self, end: float, statuses: Statuses) -> None:
        session = requests.Session()
        # Clients take turns, so that each hostile body is sent at least once.
        while (number := next(self._numbers)) < (len(self.bodies) if self._load.is_hostile else 0) or (
            time.monotonic() < end
        ):
            self._send_until_accepted(session, self.bodies[number % len(self.bodies)], statuses)

    def _send_until_accepted(self, session: requests.Session, body: bytes, statuses: Statuses) -> None:
        first_refusal = None
        while True:
            status, content, retry_after = self._post(session, body)
            with self._lock:
                statuses[status] += 1
                if status == 200:
                    self._outcome.wrong += self._outcome.answers.setdefault(body, content) != content
            is_good = status == 200 or (self._load.is_hostile and status in (400, 413))
            if first_refusal is None:
                if status != 503:
                    return
                self._outcome.refused += 1
                first_refusal = time.monotonic()
            elif is_good:
                return
            if time.monotonic() - first_refusal > REPEAT_SECONDS or not isinstance(status, int):
                self._outcome.never += 1
                return
            time.sleep(retry_after)

    def _post(self, session: requests.Session, body: bytes) -> tuple[int | str, bytes, float]:
        headers = {"Content-Type": self._load.content_type}
        try:
            answer = session.post(self._url + self._load.path, body, headers=headers, timeout=90)
        except requests.RequestException as error:
            return type(error).__name__, b"", 1.0
        return answer.status_code, answer.content, float(answer.headers.get("Retry-After", 1))

    def _check(self, is_over: threading.Event) -> None:
        while not is_over.wait(0.1):
            began = time.monotonic()
            try:
                requests.get(f"{self._url}/readyz", timeout=30)
            except requests.RequestException:
                self._outcome.slowest_check = 30.0
                return
            self._outcome.slowest_check = max(self._outcome.slowest_check, time.monotonic() - began)

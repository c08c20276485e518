"""32 clients that send requests without pause, and what they notice meanwhile."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests

CLIENTS = 32
QUESTION = {"dataframe_split": {"columns": ["x"], "data": [[21.0]]}}
ANSWER = {"predictions": [{"x": 42.0}]}


@dataclass
class Noticed:
    """The results of all clients together."""

    answers: Counter[str] = field(default_factory=Counter)  # by the version that responded
    failures: list[tuple[float, str]] = field(default_factory=list)  # start of the request, and the error
    ids: list[str] = field(default_factory=list)  # of the answered requests
    key: str = ""  # what the clients send from now on

    def __str__(self) -> str:
        total = sum(self.answers.values()) + len(self.failures)
        return f"{total} requests, {len(self.failures)} failures {Counter(why for _, why in self.failures)}"


@contextmanager
def hammered(url: str, key: str = "") -> Iterator[Noticed]:
    """Runs 32 clients, each with a connection, that send requests while the context is open."""
    noticed, stop = Noticed(key=key), threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                began = time.monotonic()
                try:
                    answer = ask_once(session, url, noticed.key)
                except requests.RequestException as error:
                    noticed.failures.append((began, type(error).__name__))
                    continue
                noticed.ids += filter(None, [answer.headers.get("X-Request-Id")])  # the load balancer sends none
                if answer.status_code == 200 and answer.json() == ANSWER:
                    noticed.answers[answer.headers["X-Model-Version"]] += 1
                else:
                    noticed.failures.append((began, str(answer.status_code)))

    clients = [threading.Thread(target=ask, daemon=True) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield noticed
    finally:
        stop.set()
        for client in clients:
            client.join()


def ask_once(session: requests.Session, url: str, key: str) -> requests.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return session.post(f"{url}/invocations", json=QUESTION, headers=headers, timeout=60)


def wait_until(happened: Callable[[], bool], every_seconds: float = 0.5, at_most_seconds: float = 240) -> None:
    deadline = time.monotonic() + at_most_seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(every_seconds)

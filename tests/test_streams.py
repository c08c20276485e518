"""Streamed predictions as the client and its command read them, from a server with scripted events."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_fargate import FargateDeploymentClient
from mlflow_fargate.cli import main
from mlflow_fargate.errors import PredictionFailed, PredictionTimeout
from mlflow_fargate.scoring import score_stream
from mlflow_fargate.scoring.events import parse_events

WHOLE = [b'data: {"word": "a"}\n\n', b'data: {"word": "b"}\n\n', b"data: [DONE]\n\n"]


@pytest.mark.parametrize(
    "lines",
    [
        [b'data: {"word": "a"}', b"", b'data: {"word": "b"}', b"", b"data: [DONE]"],
        [b'data:{"word": "a"}', b": keep-alive", b"id: 1", b'data: {"word": "b"}', b"data: [DONE]", b"data: {"],
    ],
)
def test_events_are_read_up_to_the_last(lines: list[bytes]) -> None:
    assert list(parse_events(lines, "url")) == [{"word": "a"}, {"word": "b"}]


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (b'data: {"error": "no memory"}', "stopped streaming: no memory"),
        (b'data: {"error": {"error_code": "INTERNAL_ERROR", "message": "failed"}}', "stopped streaming: failed"),
        (b"data: {", "is not JSON"),
        (b"", r"without \[DONE\]"),
    ],
)
def test_a_stream_that_ends_in_another_way_fails_after_the_chunks_before(last: bytes, reason: str) -> None:
    events = parse_events([b'data: {"error": "an answer", "n": 1}', last], "url")

    assert next(events) == {"error": "an answer", "n": 1}
    with pytest.raises(PredictionFailed, match=reason):
        next(events)


class Scripted(ThreadingHTTPServer):
    """Answers each request with the next of `answers`: a status, and the parts of a body that ends the connection."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, list[bytes]]] = []
        self.asked: list[tuple[Any, str | None]] = []
        self.go_on = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/churn"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Scripted)
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else b"".join(self._chunks())
        server.asked.append((json.loads(body), self.headers["Accept"]))
        status, parts = server.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Type", "text/event-stream" if parts and status == 200 else "application/json")
        self.end_headers()
        for part in parts:
            if part == b"WAIT":
                server.go_on.wait(30)
            else:
                self.wfile.write(part)
                self.wfile.flush()

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def log_message(self, format: str, *arguments: object) -> None:
        """Logs nothing."""


@pytest.fixture
def server() -> Iterator[Scripted]:
    server = Scripted()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_request_asks_for_a_stream_in_both_ways_and_is_retried_until_it_begins(server: Scripted) -> None:
    server.answers = [(503, []), (200, WHOLE)]

    assert list(score_stream(server.url, [[1]])) == [{"word": "a"}, {"word": "b"}]
    assert server.asked == [({"inputs": [[1]], "stream": True}, "text/event-stream")] * 2


def test_nothing_is_retried_after_the_first_chunk(server: Scripted) -> None:
    server.answers = [(200, WHOLE[:1])]
    chunks = score_stream(server.url, [[1]])

    assert next(chunks) == {"word": "a"}
    with pytest.raises(PredictionFailed, match=r"without \[DONE\]"):
        next(chunks)
    assert len(server.asked) == 1


def test_chunks_are_passed_on_as_they_arrive_and_each_is_awaited_for_a_limited_time(server: Scripted) -> None:
    server.answers = [(200, [WHOLE[0], b"WAIT"])]
    chunks = score_stream(server.url, [[1]], timeout_seconds=0.5)

    assert next(chunks) == {"word": "a"}
    with pytest.raises(PredictionFailed, match=r"the stream was interrupted: .*timed out"):
        next(chunks)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((406, []), "406(?s:.*)predict_stream"),
        ((200, []), "did not return a stream of events(?s:.*)predict_stream"),
        ((401, []), "not the deployment's API key"),
    ],
)
def test_a_model_that_does_not_stream_is_named(server: Scripted, answer: Any, reason: str) -> None:
    server.answers = [answer]

    with pytest.raises(PredictionFailed, match=reason):
        list(score_stream(server.url, [[1]]))


class OneDeployment:
    """A deployer with one deployment, at the scripted server."""

    def __init__(self, url: str) -> None:
        self._url = url

    def predict_stream(self, name: str, inputs: Any, timeout_seconds: float) -> Iterator[Any]:
        assert name == "churn"
        return score_stream(self._url, inputs, timeout_seconds=timeout_seconds)


def test_the_command_prints_each_chunk_on_its_own_line(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FargateDeploymentClient, "deployer", lambda *_: OneDeployment(server.url))
    server.answers = [(200, WHOLE), (200, WHOLE[:1])]
    command = ["predict", "--name", "churn", "-I", "-", "--stream"]

    whole = CliRunner().invoke(main, command, input='{"messages": [{"role": "user", "content": "hi"}]}')
    cut = CliRunner().invoke(main, command, input="[[1]]")
    wrong = CliRunner().invoke(main, command, input="[[1")

    assert (whole.exit_code, whole.stdout) == (0, '{"word": "a"}\n{"word": "b"}\n')
    assert server.asked[0][0] == {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    assert (cut.exit_code, cut.stdout) == (1, '{"word": "a"}\n')
    assert "without [DONE]" in cut.stderr
    assert "is not JSON" in wrong.stderr


def test_a_stream_that_never_begins_times_out(server: Scripted) -> None:
    stuck = threading.Event()
    server.answers = [(200, [])]
    server.RequestHandlerClass = type("Stuck", (Handler,), {"do_POST": lambda _: stuck.wait(5)})

    with pytest.raises(PredictionTimeout):
        list(score_stream(server.url, [[1]], timeout_seconds=0.3))
    stuck.set()

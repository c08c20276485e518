"""The local load balancer: choice of rule and target, and requests through real sockets."""

from __future__ import annotations

import gzip
import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.local.load_balancer.rules import (
    DEFAULT_RULE,
    Balancer,
    FixedResponse,
    RoutingRule,
    Target,
    WeightedTargets,
    choose_rule,
)
from mlflow_fargate.local.load_balancer.server import LoadBalancer

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def balancer() -> Iterator[LoadBalancer]:
    with LoadBalancer(idle_timeout_seconds=1) as running:
        yield running


@contextmanager
def http_target(answer: Answer) -> Iterator[Target]:
    """A normal target: HTTP/1.1, keep-alive."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        do_GET = do_HEAD = do_POST = do_PUT = answer

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield ("127.0.0.1", server.server_port)
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def raw_target(serve: Callable[[socket.socket, int], None]) -> Iterator[Target]:
    """A target that calls `serve` with each connection (numbered from 1), then closes it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        number = 0
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            number += 1
            threading.Thread(target=run, args=(connection, number), daemon=True).start()

    def run(connection: socket.socket, number: int) -> None:
        with connection:
            serve(connection, number)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield ("127.0.0.1", listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def reply(handler: BaseHTTPRequestHandler, body: bytes = b"ok", status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def to(*targets: Target) -> list[RoutingRule]:
    return [RoutingRule(1, path_patterns=("/*",), targets=(WeightedTargets(targets),))]


def read_until(connection: socket.socket, mark: bytes, received: bytes = b"") -> bytes:
    while mark not in received and (piece := connection.recv(65536)):
        received += piece
    return received


def read_head(connection: socket.socket) -> bytes:
    return read_until(connection, b"\r\n\r\n")


@pytest.mark.parametrize(
    ("rule", "host", "path", "expected"),
    [
        (RoutingRule(1, path_patterns=("/churn/*",)), "h", "/churn/predict", True),
        (RoutingRule(1, path_patterns=("/churn/*",)), "h", "/churn", False),
        (RoutingRule(1, path_patterns=("/churn", "/churn/*")), "h", "/churn", True),
        (RoutingRule(1, path_patterns=("/churn/*",)), "h", "/Churn/predict", False),
        (RoutingRule(1, path_patterns=("/v?/x",)), "h", "/v1/x", True),
        (RoutingRule(1, path_patterns=("/v?/x",)), "h", "/v/x", False),
        (RoutingRule(1, path_patterns=("/a.c",)), "h", "/abc", False),
        (RoutingRule(1, path_patterns=("*.json",)), "h", "/a/b.json", True),
        (RoutingRule(1, host_patterns=("*.example.com",)), "A.Example.com:8080", "/", True),
        (RoutingRule(1, host_patterns=("*.example.com",)), "example.com", "/", False),
        (RoutingRule(1, host_patterns=("a.b",), path_patterns=("/x",)), "a.b", "/y", False),
        (RoutingRule(1), "anything", "/at/all", True),
    ],
)
def test_patterns_match_as_in_an_alb(rule: RoutingRule, host: str, path: str, expected: bool) -> None:
    assert (choose_rule([rule], host, path, {}) is rule) is expected


def test_the_lowest_priority_number_wins_and_the_default_gets_the_rest(balancer: LoadBalancer) -> None:
    def fixed(text: str) -> FixedResponse:
        return FixedResponse(200, text)

    balancer.set_routes(
        [
            RoutingRule(20, path_patterns=("/*",), host_patterns=("a.example",), fixed_response=fixed("host")),
            RoutingRule(10, path_patterns=("/x/*",), fixed_response=fixed("path")),
        ],
        default=RoutingRule(99, path_patterns=("/ignored",), fixed_response=FixedResponse(418, "default")),
    )

    def ask(path: str, host: str) -> tuple[int, str]:
        answer = requests.get(balancer.url + path, headers={"Host": host})
        return answer.status_code, answer.text

    assert ask("/x/1", "a.example") == (200, "path")
    assert ask("/y", "A.EXAMPLE:80") == (200, "host")
    assert ask("/y?path=/x/", "127.0.0.1") == (418, "default")


def test_without_routes_every_request_gets_404(balancer: LoadBalancer) -> None:
    assert requests.get(balancer.url).status_code == 404


def test_weights_split_requests_and_an_empty_group_is_not_replaced_by_another() -> None:
    one, two = ("10.0.0.1", 1), ("10.0.0.2", 2)
    balancer = Balancer()
    groups = [WeightedTargets((one,), 3), WeightedTargets((two,), 1)]

    chosen = Counter(balancer.choose_target(groups) for _ in range(4000))

    assert 2.4 < chosen[one] / chosen[two] < 3.8
    assert balancer.choose_target([WeightedTargets((one,), 0), WeightedTargets((), 1)]) is None
    assert balancer.choose_target([WeightedTargets((one,), 0)]) is None
    assert balancer.choose_target([]) is None


def test_the_target_with_the_fewest_requests_is_next_and_equal_ones_take_turns() -> None:
    one, two, three = ("t", 1), ("t", 2), ("t", 3)
    balancer = Balancer()
    group = [WeightedTargets((one, two, three))]

    idle = Counter(balancer.choose_target(group) for _ in range(30))
    with balancer.occupied(one), balancer.occupied(two):
        busy = {balancer.choose_target(group) for _ in range(30)}

    assert set(idle.values()) == {10}
    assert busy == {three}


def test_no_target_is_a_503_like_an_albs(balancer: LoadBalancer) -> None:
    balancer.set_routes([RoutingRule(1, path_patterns=("/*",), targets=(WeightedTargets(()),))])

    answer = requests.get(balancer.url)

    assert (answer.status_code, answer.reason) == (503, "Service Temporarily Unavailable")
    assert answer.headers["Server"] == "awselb/2.0"
    assert "<h1>503 Service Temporarily Unavailable</h1>" in answer.text


def test_request_and_response_pass_through_unchanged(balancer: LoadBalancer) -> None:
    seen: dict[str, Any] = {}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.update(path=handler.path, headers=handler.headers, method=handler.command)
        seen["body"] = handler.rfile.read(int(handler.headers["Content-Length"]))
        reply(handler, b"made", 201, X_Own="1", Keep_Alive="timeout=5", Connection="X-Private", X_Private="1")

    sent = {"Host": "localhost:80", "X-Forwarded-For": "1.2.3.4", "Connection": "X-Secret", "X-Secret": "1"}
    with http_target(answer) as target:
        balancer.set_routes(to(target))
        connection = http.client.HTTPConnection("127.0.0.1", balancer.port)
        connection.request("POST", "/churn/a%2Fb//../c?q=%20x&q=+", body=b"payload", headers=sent)
        response = connection.getresponse()
        content = response.read()
        connection.close()

    assert (response.status, content) == (201, b"made")
    assert seen["path"] == "/churn/a%2Fb//../c?q=%20x&q=+"
    assert (seen["method"], seen["body"]) == ("POST", b"payload")
    headers = seen["headers"]
    assert headers["Host"] == "localhost:80"
    assert headers["X-Forwarded-For"] == "1.2.3.4, 127.0.0.1"
    assert headers["X-Forwarded-Proto"] == "http"
    assert headers["X-Forwarded-Port"] == str(balancer.port)
    assert headers["X-Amzn-Trace-Id"].startswith("Root=1-")
    assert headers["Content-Length"] == "7"
    for name in ("X-Secret", "User-Agent", "Accept", "Content-Type"):
        assert name not in headers
    assert response.headers["X-Own"] == "1"
    for name in ("Keep-Alive", "X-Private"):
        assert name not in response.headers


def test_compressed_bodies_stay_compressed_in_both_directions(balancer: LoadBalancer) -> None:
    packed = gzip.compress(b"content")
    seen: list[bytes] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.rfile.read(int(handler.headers["Content-Length"])))
        reply(handler, packed, Content_Encoding="gzip")

    with http_target(answer) as target:
        balancer.set_routes(to(target))
        response = requests.post(balancer.url, data=packed, headers={"Content-Encoding": "gzip"}, stream=True)

        assert response.raw.read(decode_content=False) == packed
    assert seen == [packed]


def test_redirects_are_passed_to_the_client(balancer: LoadBalancer) -> None:
    with http_target(lambda handler: reply(handler, b"", 302, Location="/elsewhere")) as target:
        balancer.set_routes(to(target))
        answer = requests.get(balancer.url, allow_redirects=False)

    assert (answer.status_code, answer.headers["Location"]) == (302, "/elsewhere")


def test_responses_without_a_body_stay_without_one(balancer: LoadBalancer) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/none":
            handler.send_response(204)
            handler.end_headers()
        else:
            reply(handler, b"0123456789")

    with http_target(answer) as target, requests.Session() as session:
        balancer.set_routes(to(target))
        head = session.head(balancer.url)
        nothing = session.get(f"{balancer.url}/none")
        whole = session.get(balancer.url)

    assert (head.headers["Content-Length"], head.content) == ("10", b"")
    assert (nothing.status_code, nothing.content) == (204, b"")
    assert whole.content == b"0123456789"


def test_bodies_stream_in_both_directions(balancer: LoadBalancer) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        head = read_head(connection)
        assert b"Transfer-Encoding: chunked" in head
        received = head.partition(b"\r\n\r\n")[2]
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        received = read_until(connection, b"ping", received)
        connection.sendall(b"4\r\npong\r\n")
        read_until(connection, b"0\r\n\r\n", received)
        connection.sendall(b"0\r\n\r\n")

    with raw_target(serve) as target, socket.create_connection(("127.0.0.1", balancer.port), timeout=5) as client:
        balancer.set_routes(to(target))
        client.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n")
        received = read_until(client, b"pong")  # arrives while the request is still open
        client.sendall(b"0\r\n\r\n")
        received = read_until(client, b"0\r\n\r\n", received)

    assert received.startswith(b"HTTP/1.1 200 OK")


def test_a_large_body_arrives_complete(balancer: LoadBalancer) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        reply(handler, handler.rfile.read(int(handler.headers["Content-Length"])))

    content = bytes(range(256)) * 40_000
    with http_target(answer) as target:
        balancer.set_routes(to(target))

        assert requests.put(balancer.url, data=content).content == content


@pytest.mark.parametrize("line", ["OPTIONS *", "CONNECT 127.0.0.1:1"])
def test_a_request_without_a_path_reaches_no_target(balancer: LoadBalancer, line: str) -> None:
    with http_target(reply) as target, socket.create_connection(("127.0.0.1", balancer.port), timeout=5) as client:
        balancer.set_routes(to(target))
        client.sendall(f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

        assert read_head(client).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_expects_100_continue_gets_it(balancer: LoadBalancer) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        assert "Expect" not in handler.headers
        reply(handler, handler.rfile.read(int(handler.headers["Content-Length"])))

    with (
        http_target(answer) as target,
        socket.create_connection(("127.0.0.1", balancer.port), timeout=5) as client,
    ):
        balancer.set_routes(to(target))
        client.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"body")
        received = read_until(client, b"body")

    assert received.startswith(b"HTTP/1.1 200 OK")


def test_a_refused_connection_is_a_502(balancer: LoadBalancer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()
    balancer.set_routes(to(nobody))

    answer = requests.post(balancer.url, data=b"x")

    assert (answer.status_code, answer.headers["Server"]) == (502, "awselb/2.0")


@pytest.mark.parametrize("invalid", [b"", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_invalid_response_on_a_new_connection_is_a_502_without_a_retry(
    balancer: LoadBalancer, method: str, invalid: bytes
) -> None:
    connections: list[int] = []

    def serve(connection: socket.socket, number: int) -> None:
        connections.append(number)
        read_head(connection)
        connection.sendall(invalid)

    with raw_target(serve) as target:
        balancer.set_routes(to(target))

        assert requests.request(method, balancer.url).status_code == 502
    assert connections == [1]


def answer_once_then_close(connection: socket.socket, number: int) -> None:
    """Behaves like a stopping target: closes a kept-alive connection on its second request."""
    head = read_head(connection)
    length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0] or 0)
    missing = length - len(head.partition(b"\r\n\r\n")[2])
    while missing > 0:
        missing -= len(connection.recv(65536))
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
    read_head(connection)


@pytest.mark.parametrize(("method", "body"), [("GET", None), ("POST", b"small"), ("PUT", b"")])
def test_a_closed_kept_alive_connection_loses_no_request(
    balancer: LoadBalancer, method: str, body: bytes | None
) -> None:
    with raw_target(answer_once_then_close) as target:
        balancer.set_routes(to(target))
        answers = [requests.request(method, balancer.url, data=body) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert answers[0].text != answers[1].text


def test_a_large_body_is_not_sent_twice(balancer: LoadBalancer) -> None:
    with raw_target(answer_once_then_close) as target:
        balancer.set_routes(to(target))
        first = requests.get(balancer.url)
        second = requests.post(balancer.url, data=b"x" * 2_000_000)

    assert (first.status_code, second.status_code) == (200, 502)


def test_a_target_that_does_not_respond_is_a_504(balancer: LoadBalancer) -> None:
    release = threading.Event()

    def serve(connection: socket.socket, number: int) -> None:
        read_head(connection)
        release.wait(10)

    with raw_target(serve) as target:
        balancer.set_routes(to(target))
        answer = requests.get(balancer.url)
        release.set()

    assert (answer.status_code, answer.reason) == (504, "Gateway Time-out")


@pytest.mark.parametrize(("idle_seconds", "status"), [(None, 504), (4.0, 200)])
def test_a_rule_has_the_idle_timeout_of_its_load_balancer(
    balancer: LoadBalancer, idle_seconds: float | None, status: int
) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(1.5)
        handler.send_response(200)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with http_target(answer) as target:
        balancer.set_routes([replace(rule, idle_timeout_seconds=idle_seconds) for rule in to(target)])

        assert requests.get(balancer.url).status_code == status


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
def test_a_response_that_breaks_off_also_breaks_off_for_the_client(balancer: LoadBalancer, framing: bytes) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\nhello\r\n")

    with raw_target(serve) as target:
        balancer.set_routes(to(target))

        with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)):
            requests.get(balancer.url)


def test_the_target_connection_of_a_disconnected_client_is_closed(balancer: LoadBalancer) -> None:
    is_let_go = threading.Event()

    def serve(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while True:
                connection.sendall(b"x" * 65536)
        except OSError:
            is_let_go.set()

    with raw_target(serve) as target:
        balancer.set_routes(to(target))
        with socket.create_connection(("127.0.0.1", balancer.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            client.recv(1000)

        assert is_let_go.wait(5)


def test_requests_in_progress_finish_on_a_target_removed_from_the_routes(balancer: LoadBalancer) -> None:
    has_begun, may_finish = threading.Event(), threading.Event()
    answers: list[str] = []

    def slow(handler: BaseHTTPRequestHandler) -> None:
        has_begun.set()
        may_finish.wait(10)
        reply(handler, b"old")

    with http_target(slow) as old, http_target(lambda handler: reply(handler, b"new")) as new:
        balancer.set_routes(to(old))
        thread = threading.Thread(target=lambda: answers.append(requests.get(balancer.url).text))
        thread.start()
        has_begun.wait(5)
        balancer.set_routes(to(new))
        answers.append(requests.get(balancer.url).text)
        may_finish.set()
        thread.join(5)

    assert answers == ["new", "old"]


@pytest.mark.slow
def test_changing_targets_under_load_loses_no_request(balancer: LoadBalancer) -> None:
    statuses: Counter[int] = Counter()
    is_over = threading.Event()

    def load() -> None:
        with requests.Session() as session:
            while not is_over.is_set():
                statuses[session.post(balancer.url, data=b"x").status_code] += 1

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        reply(handler)

    with http_target(answer) as one, http_target(answer) as two:
        balancer.set_routes(to(one))
        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(20):
            balancer.set_routes(to(one, two) if turn % 2 else to(two))
            time.sleep(0.05)
        is_over.set()
        for thread in threads:
            thread.join()

    assert set(statuses) == {200}


def test_stop_ends_the_thread_and_frees_the_port() -> None:
    before = set(threading.enumerate())
    balancer = LoadBalancer().start()
    with pytest.raises(LocalStackError, match="cannot listen"):
        LoadBalancer(port=balancer.port).start()
    with requests.Session() as session:  # keeps a connection open
        session.get(balancer.url)
        began = time.monotonic()
        balancer.stop()

    assert time.monotonic() - began < 30
    assert set(threading.enumerate()) <= before
    with LoadBalancer(port=balancer.port) as again:
        again.set_routes([], default=DEFAULT_RULE)
        assert requests.get(again.url).status_code == 404

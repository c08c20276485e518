"""The WSGI server of the local stack: what it fixes in waitress."""

from __future__ import annotations

import contextlib
import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.local.wsgi_server import WsgiServer


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("x-amz-meta-runId", "abc"), ("Content-Type", "text/plain")])
    return [environ["wsgi.input"].read()]


def endless(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    while True:
        yield b"x" * 1_000_000


@pytest.mark.parametrize("body", [b"", b"content"])
def test_a_client_that_expects_100_continue_gets_a_response(body: bytes) -> None:
    with WsgiServer(echo) as server, socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        length = str(len(body)).encode()
        connection.sendall(
            b"PUT / HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: " + length + b"\r\n\r\n"
        )
        if body:
            assert connection.recv(1000).startswith(b"HTTP/1.1 100 Continue")
            connection.sendall(body)
        answer = http.client.HTTPResponse(connection)
        answer.begin()

        assert (answer.status, answer.read()) == (200, body)


@pytest.mark.parametrize(
    "framing", ["Content-Length: 5000000000", "Content-Length: 600000", "Transfer-Encoding: chunked"]
)
@pytest.mark.parametrize("stranger", ["Host: evil.example", "Host: 127.0.0.1\r\nOrigin: http://evil.example"])
@pytest.mark.parametrize("expect", ["", "Expect: 100-continue\r\n"])
def test_a_stranger_is_refused_before_its_large_body_is_read(framing: str, stranger: str, expect: str) -> None:
    seen = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.append(environ["PATH_INFO"])
        return echo(environ, start_response)

    body = b"GET /in-the-body HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with WsgiServer(app) as server, socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(f"PUT / HTTP/1.1\r\n{stranger}\r\n{expect}{framing}\r\n\r\n".encode() + body)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        said = answer.read()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""

    assert (answer.status, seen) == (403, [])
    assert said.endswith(b".\n") and b"; " in said


@pytest.mark.parametrize("framing", ["Content-Length: 5000000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("stranger", ["", "Authorization: AWS4-HMAC-SHA256 Credential=OTHER/20261130\r\n"])
def test_a_large_body_without_the_access_key_is_refused_before_it_is_read(framing: str, stranger: str) -> None:
    request = f"PUT /mlflow/a HTTP/1.1\r\nHost: 127.0.0.1\r\n{stranger}{framing}\r\nExpect: 100-continue\r\n\r\n"
    with (
        WsgiServer(echo, access_key_id="LOCAL1") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection,
    ):
        connection.sendall(request.encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()

        assert answer.status == 403
        assert b"<Code>InvalidAccessKeyId</Code>" in answer.read()


@pytest.mark.parametrize("place", ["header", "presigned URL"])
def test_a_large_body_with_the_access_key_reaches_the_application(place: str) -> None:
    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=LOCAL1/x"} if place == "header" else {}
    with WsgiServer(echo, access_key_id="LOCAL1") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        url = "/" if headers else "/?X-Amz-Credential=LOCAL1%2Fx"
        connection.request("PUT", url, body=b"x" * 600_000, headers=headers)

        assert len(connection.getresponse().read()) == 600_000
        connection.close()


def test_a_large_body_from_a_program_is_accepted() -> None:
    with WsgiServer(echo) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        for body in (b"x" * 600_000, iter([b"x" * 300_000] * 2)):
            connection.request("PUT", "/", body=body)
            assert len(connection.getresponse().read()) == 600_000
        connection.close()


def test_names_of_user_metadata_stay_in_lower_case() -> None:
    with WsgiServer(echo) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.request("GET", "/")
        names = [name for name, _ in connection.getresponse().getheaders()]
        connection.close()

    assert "x-amz-meta-runid" in names
    assert "Content-Type" in names


def test_hundreds_of_idle_connections_do_not_block_new_ones() -> None:
    with WsgiServer(echo) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(300)]
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        connection.request("PUT", "/", body=b"content")

        assert connection.getresponse().read() == b"content"

        for one in (*idle, connection):
            one.close()


@pytest.mark.parametrize("app", [echo, endless])
def test_stop_ends_threads_and_connections_and_frees_the_port(app: Any) -> None:
    before = set(threading.enumerate())
    server = WsgiServer(app).start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/")
    connection.getresponse().read(10)
    with pytest.raises(LocalStackError, match="cannot listen"):
        WsgiServer(app, port=server.port).start()

    began = time.monotonic()
    server.stop()

    assert time.monotonic() - began < 30
    connection.close()
    assert set(threading.enumerate()) <= before
    with WsgiServer(app, port=server.port) as again:
        assert again.url == f"http://127.0.0.1:{server.port}"


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_stopping_while_requests_end_writes_to_no_closed_pipe(caplog: pytest.LogCaptureFixture) -> None:
    """Each request that ends wakes the loop, at the same time as stop()."""
    for _ in range(100):
        with WsgiServer(echo) as server:
            clients = [threading.Thread(target=_put_and_forget, args=(server.port,)) for _ in range(4)]
            for client in clients:
                client.start()
            clients[0].join()
        for client in clients:
            client.join()

    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


def _put_and_forget(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):  # stop() may be first
        connection.request("PUT", "/", body=b"content")
        connection.getresponse().read()

"""A WSGI server on the loopback interface that starts and stops inside a process: waitress with three fixes.

Waitress never responds to a request with `Expect: 100-continue` and an empty body, which is how boto3 uploads an empty
file; it capitalizes header names, which changes the names of S3 user metadata; and its loop does not end while any
client keeps a connection open.

Every application it serves is behind the guard (guard.py), which decides before a large body is read. The application
decides on a signature, after waitress has written the body to disk; so a large body needs the access key's ID before.
"""

from __future__ import annotations

import re
import socket
import threading
from types import TracebackType
from typing import Any

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import create_server
from waitress.task import WSGITask
from waitress.utilities import Error

from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.local.guard import REFUSAL_HEADERS, WsgiApp, guarded, refusal
from mlflow_fargate.local.signature import HOW_TO_SIGN

# S3 accepts up to 5 GiB in a single PUT; waitress spools bodies to disk and by default refuses them above 1 GiB.
_MAX_BODY_BYTES = 6 * 1024**3
# Buffer for a response to a slow client: waitress's 16 MiB take twice the time and four times the memory.
_ANSWER_BUFFER_BYTES = 1024**2
# Every boto3 client keeps idle connections open; waitress stops at 100, and the next one waits for a minute.
_MAX_CONNECTIONS = 2000
_STOP_SECONDS = 5.0
# As S3 says it: only objects are that large.
_UNKNOWN_KEY = (
    "<Error><Code>InvalidAccessKeyId</Code><Message>The access key does not belong to this local stack; "
    f"{HOW_TO_SIGN}</Message></Error>"
)


class WsgiServer:
    """Serves `app` on 127.0.0.1 between start() and stop() (or in a `with`); port 0 picks a free one.

    With `access_key_id`, requests with a large body that do not name it are refused.
    """

    def __init__(self, app: WsgiApp, *, port: int = 0, threads: int = 8, access_key_id: str = "") -> None:
        self._app = guarded(app)
        self._access_key_id = access_key_id
        self._port = port
        self._threads = threads
        self._sockets: dict[int, Any] = {}
        self._server: Any = None
        self._loop: threading.Thread | None = None
        self._is_stopping = threading.Event()

    def start(self) -> WsgiServer:
        """Starts listening; LocalStackError if the port is taken."""
        # Bound here, because waitress starts its threads before it notices that the port is taken.
        try:
            listener = socket.create_server(("127.0.0.1", self._port))
        except OSError as error:
            raise LocalStackError(
                f"The local AWS cannot listen on 127.0.0.1:{self._port} ({error.strerror}).",
                hint="choose another port, or 0 for a free one",
            ) from error
        self._port = listener.getsockname()[1]
        settings = {
            "ident": "mlflow-fargate",
            "threads": self._threads,
            "max_request_body_size": _MAX_BODY_BYTES,
            "outbuf_high_watermark": _ANSWER_BUFFER_BYTES,
            "connection_limit": _MAX_CONNECTIONS,
            "asyncore_use_poll": True,  # select() does not accept file descriptors above 1023
        }
        self._server = create_server(self._app, map=self._sockets, sockets=[listener], **settings)
        self._server.channel_class = _Channel
        self._server.adj.access_key_id = self._access_key_id  # waitress passes these settings to the parser
        self._is_stopping.clear()
        self._loop = threading.Thread(target=self._run, name="wsgi", daemon=True)
        self._loop.start()
        return self

    def stop(self) -> None:
        """Closes every connection and ends the threads."""
        if self._server is None or self._loop is None:
            return
        self._is_stopping.set()
        # The loop only ends and closes nothing: its trigger is a pipe, and a write to a closed pipe fails or, once its
        # file descriptor has been reused, goes to another file.
        self._server.trigger.pull_trigger()
        self._loop.join(2 * _STOP_SECONDS)
        # handle_close, because it also wakes the worker that waits for this client to read more of its response.
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
        # Workers use the trigger when they finish, so they end first.
        self._server.task_dispatcher.shutdown(timeout=_STOP_SECONDS)
        wasyncore.close_all(self._sockets, ignore_all=True)
        self._server = self._loop = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _run(self) -> None:
        while not self._is_stopping.is_set():
            wasyncore.loop(timeout=1.0, map=self._sockets, count=1)

    def __enter__(self) -> WsgiServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


class _Parser(HTTPRequestParser):  # type: ignore[misc]  # waitress ships no types
    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        if not self.chunked and self.content_length == 0:
            self.expect_continue = False
        # Otherwise waitress would write the body to disk before the guard decides. A body that fits in memory is read:
        # a client that is still sending when the connection closes may never see the answer.
        is_large = self.chunked or self.content_length > self.adj.inbuf_overflow
        if is_large and (error := self._refusal()):
            self.error = error
            self.completed = True
            self.expect_continue = False

    def _refusal(self) -> Error | None:
        if said := refusal(self.command, self._header):
            return _Forbidden(said)
        is_named = self.adj.access_key_id in f"{self._header('Authorization')} {self.query}"
        return None if is_named else _Forbidden(_UNKNOWN_KEY)

    def _header(self, name: str) -> str | None:
        value: str | None = self.headers.get(name.upper().replace("-", "_"))
        return value


class _Forbidden(Error):  # type: ignore[misc]
    """A refusal; waitress closes the connection behind an error, so nothing of the body is a request."""

    def to_response(self, ident: str | None = None) -> tuple[str, list[tuple[str, str]], bytes]:
        return "403 Forbidden", list(REFUSAL_HEADERS), f"{self.body}\n".encode()


class _Task(WSGITask):  # type: ignore[misc]
    def build_response_header(self) -> bytes:
        header: bytes = super().build_response_header()
        return re.sub(rb"\r\nX-Amz-[^:\r]*:", lambda name: name.group().lower(), header)


class _Channel(HTTPChannel):  # type: ignore[misc]
    parser_class = _Parser
    task_class = _Task

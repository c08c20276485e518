"""Bounds a request's headers and how many requests a connection sends ahead, before the API key is checked.

uvicorn's parser, httptools, collects headers of any length in memory. (Its other parser, h11, has a limit of 64 KiB.)
Requests that arrive before the previous response are parsed and kept, and each response lets more of them in: they took
9 kB each, 100 times what is sent. Load balancers send none ahead.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fargate_service.errors import make_error_body
from fargate_service.http.sending import FLOW, HeadWithBody


def make_bounded_protocol(max_header_bytes: int) -> type[HttpToolsProtocol]:
    """Returns uvicorn's protocol with a limit for all headers of a request together, and for its trailers."""
    limit = f"{max_header_bytes >> 10} KiB (MAX_HEADER_KB)"
    body = make_error_body(400, f"The request's headers have more than {limit}.")
    return type(
        "BoundedProtocol",
        (_BoundedProtocol,),
        {"max_header_bytes": max_header_bytes, "refusal": b"%s%d\r\n\r\n%s" % (_HEAD, len(body), body)},
    )


_HEAD = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: "


_MOST_AHEAD = 16


class _TooMuch(Exception):
    """The headers have arrived and are too long, or belong to one request too many."""


class _BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, for clients that send something else than headers (or trailers) from time to time."""

    max_header_bytes: int
    refusal: bytes
    _waiting_bytes = 0  # received since the last other part of a request: httptools reports complete headers only
    _header_bytes = 0  # of complete headers
    _is_in_headers = True

    def data_received(self, data: bytes) -> None:
        self._is_in_headers = True
        super().data_received(data)
        self._waiting_bytes = self._waiting_bytes + len(data) if self._is_in_headers else 0
        if self._waiting_bytes > self.max_header_bytes and not self.transport.is_closing():
            self._refuse()

    def send_400_response(self, msg: str) -> None:
        if self._header_bytes > self.max_header_bytes or len(self.pipeline) > _MOST_AHEAD:
            self._refuse()
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + len(b": \r\n")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._header_bytes > self.max_header_bytes:
            raise _TooMuch  # the parser stops, and uvicorn calls send_400_response
        self._is_in_headers = False
        super().on_headers_complete()
        self.scope[FLOW] = self.flow  # type: ignore[literal-required]
        if self.cycle is not None:  # else the connection becomes a WebSocket
            self.cycle.transport = HeadWithBody(self.transport)  # type: ignore[assignment]
        if len(self.pipeline) > _MOST_AHEAD:
            raise _TooMuch

    def on_body(self, body: bytes) -> None:
        self._is_in_headers = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_headers = False
        super().on_message_complete()

    def _refuse(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(self.refusal)
        self.transport.close()

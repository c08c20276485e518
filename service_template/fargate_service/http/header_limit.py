"""Bounds a request's headers while they arrive.

uvicorn's parser, httptools, collects headers of any length in memory before it passes on the request, and so before
the API key is checked; `HeaderLimit` would come too late. uvicorn's other parser, h11, has a limit of 64 KiB.
"""

from __future__ import annotations

from typing import Any

from fargate_service.errors import make_error_body
from fargate_service.http.middleware import MAX_HEADER_BYTES

_BODY = make_error_body(431, f"The request has more than {MAX_HEADER_BYTES >> 10} KiB of headers.")
_RESPONSE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


def limit_headers() -> None:
    """Makes uvicorn's protocol answer 431 and close the connection once headers are too long; can be called again."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol  # noqa: PLC0415  # httptools is optional
    except ImportError:
        return
    if not hasattr(HttpToolsProtocol, "header_bytes"):
        _extend(HttpToolsProtocol)


def _extend(protocol: Any) -> None:
    # Changed in place: which class BentoML passes to uvicorn cannot be set.
    receive, begin, complete = protocol.data_received, protocol.on_message_begin, protocol.on_headers_complete

    def data_received(self: Any, data: bytes) -> None:
        receive(self, data)
        if self.header_bytes is None or self.transport.is_closing():
            return
        self.header_bytes += len(data)
        if self.header_bytes > MAX_HEADER_BYTES:
            self.transport.write(_RESPONSE)
            self.transport.close()

    def on_message_begin(self: Any) -> None:
        self.header_bytes = 0
        begin(self)

    def on_headers_complete(self: Any) -> None:
        self.header_bytes = None
        complete(self)

    protocol.header_bytes = None  # counted from a request's first byte to the end of its headers
    protocol.data_received = data_received
    protocol.on_message_begin = on_message_begin
    protocol.on_headers_complete = on_headers_complete

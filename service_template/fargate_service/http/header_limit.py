"""Bounds a request's headers while they arrive, and so before the API key is checked.

uvicorn's parser, httptools, collects headers of any length in memory. (Its other parser, h11, has a limit of 64 KiB.)
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fargate_service.errors import make_error_body

# The limit of an Application Load Balancer for all headers together.
# https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-limits.html
MAX_HEADER_BYTES = 64 * 1024
_BODY = make_error_body(400, f"The headers exceed {MAX_HEADER_BYTES >> 10} KiB, the limit of AWS's load balancers.")
_RESPONSE = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
    % (len(_BODY), _BODY)
)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, for clients that send something else than headers (or trailers) from time to time."""

    _header_bytes = 0  # since the last other part of a request
    _is_in_headers = True

    def data_received(self, data: bytes) -> None:
        self._is_in_headers = True
        super().data_received(data)
        self._header_bytes = self._header_bytes + len(data) if self._is_in_headers else 0
        if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_RESPONSE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        self._is_in_headers = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._is_in_headers = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_headers = False
        super().on_message_complete()

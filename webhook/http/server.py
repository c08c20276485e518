"""Waitress, with limits for requests that arrive slowly or never completely.

Waitress reads requests without occupying a thread, so slow ones cost a connection each, but it has no time limit for
them and stops accepting at its connection limit. Here, a request has a few seconds to arrive, and at the limit a new
connection replaces the one that has been sending its request for the longest time. A client that sends its request at
once, such as a load balancer's health check, is served whatever the others do.
"""

from __future__ import annotations

import time
from typing import Any

from flask import Flask
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer

from mlflow_fargate.webhook.http.views import MAX_BODY_BYTES

# For headers and body together, which have at most 64 KiB.
RECEIVE_SECONDS = 10
# Below the file descriptors of a process, of which many systems allow 1024. A load balancer's nodes need a few.
MAX_CONNECTIONS = 500
_ACCEPTED_AT_ONCE = 100
_MAX_HEADER_BYTES = 16 * 1024


class _Channel(HTTPChannel):  # type: ignore[misc]  # waitress ships no types
    """A connection. `began`: since when a request has been awaited or received; None if it is kept open for more."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.began: float | None = self.creation_time

    def received(self, data: bytes) -> bool:
        taken: bool = super().received(data)
        self.began = None if self.request is None else self.began or time.time()
        return taken


class Server(TcpWSGIServer):  # type: ignore[misc]
    """Serves `app` on the first address of `host`; run() returns after SystemExit or KeyboardInterrupt.

    `is_behind_proxy`: the client's address is the last one in X-Forwarded-For, as a load balancer adds it. Raises
    OSError or ValueError if the address is in use or invalid.
    """

    channel_class = _Channel

    def __init__(self, app: Flask, *, host: str, port: int, prefix: str = "", is_behind_proxy: bool = False) -> None:
        proxy = {"trusted_proxy": "*", "trusted_proxy_headers": {"x-forwarded-for"}} if is_behind_proxy else {}
        settings = Adjustments(
            host=host,
            port=port,
            url_prefix=prefix,
            max_request_body_size=MAX_BODY_BYTES,
            max_request_header_size=_MAX_HEADER_BYTES,
            cleanup_interval=1,
            connection_limit=2 * MAX_CONNECTIONS,  # never reached
            asyncore_use_poll=True,  # select() does not accept file descriptors above 1023
            ident=None,
            **proxy,
        )
        super().__init__(app, adj=settings)

    def maintenance(self, now: float) -> None:
        super().maintenance(now)
        for channel in list(self.active_channels.values()):
            if channel.began is not None and now - channel.began > RECEIVE_SECONDS and not channel.requests:
                channel.handle_close()

    def handle_accept(self) -> None:
        # Waitress accepts one connection per turn of its loop; a flood of them would delay all others.
        for _ in range(_ACCEPTED_AT_ONCE):
            if len(self.active_channels) >= MAX_CONNECTIONS:
                self._close_slowest()
            before = len(self.active_channels)
            super().handle_accept()
            if len(self.active_channels) == before:
                return

    def _close_slowest(self) -> None:
        idle = [channel for channel in self.active_channels.values() if not channel.requests]
        if idle:
            min(idle, key=lambda one: (one.began is None, one.began or one.last_activity)).handle_close()

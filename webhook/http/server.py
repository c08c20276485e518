"""Waitress, with limits for requests that arrive slowly or never completely.

Waitress reads requests without occupying a thread, so slow ones cost a connection each, but it has no time limit for
them and stops accepting at its connection limit. Here, a request has a few seconds to arrive, and at the limit a new
connection replaces the oldest that is still sending a request. A client that sends its request at once, such as a load
balancer's health check, is served whatever the others do.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from flask import Flask
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer

from mlflow_fargate.webhook.http.views import MAX_BODY_BYTES

# For headers and body together, which have at most 64 KiB.
RECEIVE_SECONDS = 10
# Enough to hold an attack of thousands: replacing connections makes others wait. One takes about 10 KB of memory.
_MAX_CONNECTIONS = 8_000
_OTHER_FILES = 200
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
            connection_limit=2 * _MAX_CONNECTIONS,  # never reached
            asyncore_use_poll=True,  # select() does not accept file descriptors above 1023
            ident=None,
            **proxy,
        )
        super().__init__(app, adj=settings)
        self._most = _most_connections()

    def maintenance(self, now: float) -> None:
        super().maintenance(now)
        for channel in self.active_channels.values():
            if channel.began is not None and now - channel.began > RECEIVE_SECONDS and not channel.requests:
                channel.will_close = True

    def handle_accept(self) -> None:
        # Waitress accepts one connection per turn of its loop; a flood of them would delay all others.
        for _ in range(_ACCEPTED_AT_ONCE):
            before = len(self.active_channels)
            super().handle_accept()
            if len(self.active_channels) == before:
                return
            if before >= self._most:
                self._close_slowest()

    def _close_slowest(self) -> None:
        """Lets the next turn close a connection: closed now, a new one could get its number, and its pending event."""
        open_ones = (one for one in self.active_channels.values() if not (one.requests or one.will_close))
        first = next(open_ones, None)  # in the order in which they were accepted
        if first is not None and first.began is None:
            first = next((one for one in open_ones if one.began is not None), first)
        if first is not None:
            first.will_close = True


def _most_connections() -> int:
    """Returns how many connections this process can keep open; raises its limit on open files as far as it may."""
    if sys.platform == "win32":
        return 500
    import resource  # noqa: PLC0415  # Windows has none

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_CONNECTIONS + _OTHER_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    return max(allowed - _OTHER_FILES, 50)

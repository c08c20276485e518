"""Adds the headers that every response has, whichever layer sends it.

    X-Request-Id       the caller's, the load balancer's trace ID, or a new one; also in errors and in the log
    X-Model-Version    so that clients can follow a rollout
    X-Model-Variant    of a variant: which of those that share a URL has answered
    Retry-After        with every 429 and 503; BentoML's own responses to too many requests lack it
    Connection: close  while draining: a client that kept the connection would lose its next request

Source of the trace ID: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-request-tracing.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from fargate_service.errors import request_id
from fargate_service.http.middleware import App, Message, Receive, Scope, Send
from fargate_service.http.request_limits import Draining

# IDs that are safe in a response header and in the log.
_PLAIN_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class ResponseHeaders:
    """The outermost layer; one for all headers, because each costs time for every message."""

    def __init__(self, app: App, version: str, draining: Draining, variant: str | None = None) -> None:
        self._app = app
        names = {b"x-model-version": version, b"x-model-variant": variant}
        self._model = [(name, value.encode("latin-1", "replace")) for name, value in names.items() if value]
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identifier = _find_id(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = ((b"x-request-id", identifier), *self._model, *self._occasional(message))
                message["headers"] = [*message.get("headers", ()), *ours]
            await send(message)

        token = request_id.set(identifier.decode())
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            request_id.reset(token)

    def _occasional(self, message: Message) -> Iterator[tuple[bytes, bytes]]:
        names = (name.lower() for name, _ in message.get("headers", ()))
        if message["status"] in (429, 503) and b"retry-after" not in names:
            yield b"retry-after", b"1"
        if self._draining.has_begun:
            yield b"connection", b"close"


def _find_id(scope: Scope) -> bytes:
    headers = dict(scope["headers"])
    if (given := headers.get(b"x-request-id")) and _PLAIN_ID.fullmatch(given):
        return bytes(given)
    for part in headers.get(b"x-amzn-trace-id", b"").split(b";"):
        name, _, root = part.strip().partition(b"=")
        if name == b"Root" and _PLAIN_ID.fullmatch(root):
            return bytes(root)
    return os.urandom(16).hex().encode()

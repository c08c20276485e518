"""Plain ASGI middleware between the socket and the routes: prefix, known paths, API key, body limit.

From the outside in: `ResponseHeaders` (response_headers) adds the headers that every response has, `PathPrefix` removes
the prefix of the load balancer's rule, `KnownPaths` rejects every other path, BentoML measures and logs, `ApiKeyGate`
and `BodyLimit` guard the routes.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from starlette.responses import RedirectResponse

from fargate_service.errors import RequestError, make_error_body
from fargate_service.http.sending import FLOW, ClientStalled, at_the_clients_pace
from fargate_service.memory.body_queue import BodyQueue
from fargate_service.memory.budget import MemoryBudget
from fargate_service.memory.costs import BODY
from fargate_service.memory.reservation import new_reservation

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Health checks need no key: the load balancer and ECS cannot send one.
OPEN_PATHS = frozenset({"/livez", "/healthz", "/readyz", "/ping", "/health"})


class PathPrefix:
    """Removes `prefix` from paths that begin with it, and passes other paths on unchanged.

    `root_path` stays empty on purpose: with it, frameworks expect the prefix in `path` too, and BentoML would no longer
    recognize its health checks. Every link this service writes is relative, so nothing needs it.
    """

    def __init__(self, app: App, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if not self._prefix or not (path == self._prefix or path.startswith(f"{self._prefix}/")):
            await self._app(scope, receive, send)
            return
        if path == self._prefix and scope["type"] == "http":
            # 308 keeps the method; relative links on the page need the trailing slash.
            await RedirectResponse(f"{self._prefix}/", 308)(scope, receive, send)
            return
        inner = {**scope, "path": path[len(self._prefix) :]}
        if raw_path := scope.get("raw_path"):
            inner["raw_path"] = raw_path.removeprefix(self._prefix.encode())
        await self._app(inner, receive, send)


class KnownPaths:
    """Responds with 404 to every unknown path, before it is measured.

    BentoML's metrics keep a time series for each path ever requested: a scanner would fill the memory.
    """

    def __init__(self, app: App, paths: frozenset[str]) -> None:
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in self._paths:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send_error(send, 404, "Not found. See / for the list of routes.")
        else:
            await send({"type": "websocket.close", "code": 1000})


class ApiKeyGate:
    """Passes on requests with a key, and health checks; everything else is 401.

    `api_key` is one key, or several separated by spaces: while a key is replaced, the old and the new one are valid.

    The key is sent as `Authorization: Bearer KEY`, as `X-Api-Key: KEY`, or as the password of HTTP Basic, which a
    browser can prompt for: without it the Swagger page could not be opened.
    """

    def __init__(self, app: App, api_key: str) -> None:
        self._app = app
        self._api_keys = api_key.encode().split()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = scope["type"] == "lifespan" or scope["path"] in OPEN_PATHS
        if is_open or self._is_authorized(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            message = "This model requires an API key: send it as 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'."
            await send_error(send, 401, message, ((b"www-authenticate", b'Basic realm="API key as password"'),))
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _is_authorized(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            given = value if name == b"x-api-key" else _credentials(value) if name == b"authorization" else None
            if given is not None and any(hmac.compare_digest(given, key) for key in self._api_keys):
                return True
        return False


class BodyLimit:
    """Reserves the memory for each body before it is read, and rejects bodies above `max_body_bytes` with 413.

    Both by Content-Length, and while the body is received. Without room in `budget`, large bodies of a known length
    wait for it, and others are 503. The memory stays reserved until the client has taken the response; a client that
    takes nothing of it for `send_seconds` is disconnected.
    """

    def __init__(self, app: App, max_body_bytes: int, budget: MemoryBudget, send_seconds: float = 60) -> None:
        self._app = app
        self._limit = max_body_bytes
        self._budget = budget
        self._send_seconds = send_seconds
        self._queue = BodyQueue(budget)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = RequestError(413, f"The request is larger than {self._limit / 10**6:g} MB (MAX_BODY_MB).")
        # Health checks have no body that is read; those with one must not wait, without a key, before other requests.
        reserved_bytes = 0 if scope["path"] in OPEN_PATHS else _announced_length(scope)
        received_bytes = 0

        async def counted_receive() -> Message:
            nonlocal received_bytes, reserved_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._limit:
                raise error
            if received_bytes > reserved_bytes:
                reservation.add_body(BODY * (received_bytes - reserved_bytes))
                reserved_bytes = received_bytes
            return message

        with new_reservation(self._budget) as reservation:
            try:
                if reserved_bytes > self._limit:
                    raise error
                await self._queue.enter(reservation, BODY * reserved_bytes)
            except RequestError as refused:
                await send_error(send, refused.status, refused.message, ((b"connection", b"close"),))
                return
            # The routes turn an error into the response, as they do with their own errors. The server closes a
            # connection whose response is not complete.
            with suppress(ClientStalled):
                send = at_the_clients_pace(send, self._send_seconds, scope.get(FLOW))
                await self._app(scope, counted_receive, send)


def _credentials(header: bytes) -> bytes | None:
    scheme, _, value = header.partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return None
    return None


def _announced_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])  # as long as the largest possible; more digits would not be converted
    return 0


async def send_error(send: Send, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Sends an error as JSON."""
    body = make_error_body(status, message)
    fixed = ((b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})

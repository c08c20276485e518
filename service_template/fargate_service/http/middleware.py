"""What stands between the socket and the routes, as plain ASGI: id, version, prefix, known paths, API key, body limit.

In this order from the outside: `RequestId` names the request and `ModelVersion` the model in every answer, `RetryAfter`
says when to come again, `PathPrefix` takes off what the load balancer's rule put before the path, `KnownPaths` ends
requests for anything else, BentoML measures and logs, `ApiKeyGate` and `BodyLimit` guard the routes.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import RedirectResponse

from fargate_service.errors import RequestError, make_error_body, request_id

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Health checks carry no key: the load balancer and ECS cannot send one.
OPEN_PATHS = frozenset({"/livez", "/healthz", "/readyz", "/ping", "/health"})

# What may stand in an answer's header and in our log without further thought.
_PLAIN_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestId:
    """Gives every request a name: the caller's own X-Request-Id, the load balancer's trace id, or a new one.

    Source of the trace id: https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-request-tracing.html
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identifier = _find_id(scope)
        header = (b"x-request-id", identifier)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        token = request_id.set(identifier.decode())
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            request_id.reset(token)


class PathPrefix:
    """Takes `prefix` off paths that begin with it, and lets the others pass as they are.

    `root_path` stays empty on purpose: frameworks then expect the prefix in `path` as well, where BentoML would not
    recognize its health checks any more. Every link this service writes is relative, so nothing needs it.
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
            # 308 keeps the method; a relative reference on the page below needs the slash.
            await RedirectResponse(f"{self._prefix}/", 308)(scope, receive, send)
            return
        inner = {**scope, "path": path[len(self._prefix) :]}
        if raw_path := scope.get("raw_path"):
            inner["raw_path"] = raw_path.removeprefix(self._prefix.encode())
        await self._app(inner, receive, send)


class KnownPaths:
    """Answers 404 for every path that is not one of ours, before it is measured.

    BentoML's metrics keep a time series for each path ever asked for: a scanner would fill the memory.
    """

    def __init__(self, app: App, paths: frozenset[str]) -> None:
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in self._paths:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send_error(send, 404, "There is nothing here; / lists what there is.")
        else:
            await send({"type": "websocket.close", "code": 1000})


class RetryAfter:
    """Says with every 429 and 503 that it may be tried again; BentoML's own, for too many requests, do not."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_moment(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (429, 503):
                headers = [*message.get("headers", ())]
                if all(name.lower() != b"retry-after" for name, _ in headers):
                    message["headers"] = [*headers, (b"retry-after", b"1")]
            await send(message)

        await self._app(scope, receive, send_with_moment)


class ModelVersion:
    """Says in every answer which version of the model gave it, so that a rollout can be watched from outside."""

    def __init__(self, app: App, version: str) -> None:
        self._app = app
        self._header = (b"x-model-version", version.encode("latin-1", "replace"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self._header]
            await send(message)

        await self._app(scope, receive, send_with_version)


class ApiKeyGate:
    """Lets requests with the key pass, and health checks; everything else is 401.

    The key comes as `Authorization: Bearer KEY`, as `X-Api-Key: KEY`, or as the password of HTTP Basic, which is what
    a browser can ask its user for: without that nobody could open the Swagger page.
    """

    def __init__(self, app: App, api_key: str) -> None:
        self._app = app
        self._api_key = api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_open = scope["type"] == "lifespan" or scope["path"] in OPEN_PATHS
        if is_open or self._is_authorized(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            message = "This model needs its API key: send it as 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'."
            await send_error(send, 401, message, ((b"www-authenticate", b'Basic realm="API key as password"'),))
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _is_authorized(self, scope: Scope) -> bool:
        for name, value in scope["headers"]:
            given = value if name == b"x-api-key" else _credentials(value) if name == b"authorization" else None
            if given is not None and hmac.compare_digest(given, self._api_key):
                return True
        return False


class BodyLimit:
    """Refuses bodies above `max_body_bytes` with 413: by their announced length, and by counting while they come."""

    def __init__(self, app: App, max_body_bytes: int) -> None:
        self._app = app
        self._limit = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = RequestError(413, f"The request is larger than {self._limit / 10**6:g} MB.")
        if _announced_length(scope) > self._limit:
            await send_error(send, error.status, error.message, ((b"connection", b"close"),))
            return
        received_bytes = 0

        async def counted_receive() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._limit:
                raise error
            return message

        # The routes turn the error into the answer, as they do with their own.
        await self._app(scope, counted_receive, send)


def _find_id(scope: Scope) -> bytes:
    headers = dict(scope["headers"])
    if (given := headers.get(b"x-request-id")) and _PLAIN_ID.fullmatch(given):
        return bytes(given)
    for part in headers.get(b"x-amzn-trace-id", b"").split(b";"):
        name, _, root = part.strip().partition(b"=")
        if name == b"Root" and _PLAIN_ID.fullmatch(root):
            return bytes(root)
    return uuid.uuid4().hex.encode()


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
            return int(value)
    return 0


async def send_error(send: Send, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Answers with an error as JSON."""
    body = make_error_body(status, message)
    fixed = ((b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})

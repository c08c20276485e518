"""The load balancer's proxy: forwards each request to one target, and streams bodies unchanged in both directions.

Its own error responses look like an ALB's: 503 without a target, 502 if the target refuses the connection or sends an
invalid response, 504 if it does not respond. Headers: ALB user guide, "HTTP headers and Application Load Balancers".

Unlike an ALB, it refuses web pages of other origins and host names that no rule has: local deployments are for programs
on this machine, and for pages that a deployment itself sent.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from mlflow_fargate.local.guard import REFUSAL_HEADERS, joined, refusal
from mlflow_fargate.local.load_balancer.counts import TrafficCounts
from mlflow_fargate.local.load_balancer.rules import (
    DEFAULT_RULE,
    Balancer,
    FixedResponse,
    RoutingRule,
    Target,
    choose_rule,
)

logger = logging.getLogger(__name__)

HEADER_MAX_BYTES = 16 * 1024  # an ALB's limit for one line
_CONNECT_SECONDS = 10.0  # as an ALB
# Bodies up to this size are kept until a response begins, so that they can be sent again (see _send).
_RESENDABLE_BYTES = 1024 * 1024
# RFC 9110, 7.6.1, and Expect, because the proxy itself sends 100 Continue.
_HOP_BY_HOP = frozenset(
    (
        *("connection", "expect", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    )
)
_REASONS = {400: "Bad Request", 502: "Bad Gateway", 503: "Service Temporarily Unavailable", 504: "Gateway Time-out"}

_Body = bytes | aiohttp.StreamReader | None


class _ClientGone(Exception):
    """The client has disconnected."""


class Proxy:
    """Responds to requests by `rules` (sorted by priority, the default last), and counts them."""

    def __init__(self, idle_timeout_seconds: float, counts: TrafficCounts) -> None:
        self._counts = counts
        self.rules: tuple[RoutingRule, ...] = (DEFAULT_RULE,)
        self._balancer = Balancer()
        self._idle_timeout_seconds = idle_timeout_seconds
        self._port = 0
        self._pooled: aiohttp.ClientSession
        self._fresh: aiohttp.ClientSession

    @asynccontextmanager
    async def connected(self, port: int) -> AsyncIterator[None]:
        """Keeps connections to targets open; targets get `port` as the listener's port."""
        self._port = port
        kept_alive = aiohttp.TCPConnector(limit=0, keepalive_timeout=self._idle_timeout_seconds)
        closed_at_once = aiohttp.TCPConnector(limit=0, force_close=True)
        async with self._session(kept_alive) as self._pooled, self._session(closed_at_once) as self._fresh:
            yield

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        rule = choose_rule(self.rules, request.host, request.rel_url.raw_path, request.headers) or DEFAULT_RULE
        # A host in a rule belongs to a deployment (host=); foreign pages cannot add one.
        is_known_host = any(known.vouches_for(request.host) for known in self.rules)
        sent = request.headers
        if said := refusal(request.method, lambda name: joined(sent.getall(name, None)), is_known_host=is_known_host):
            return web.Response(status=403, text=f"{said}\n", headers=dict(REFUSAL_HEADERS[1:]))
        if not request.rel_url.raw_path.startswith("/"):  # CONNECT, and OPTIONS *
            return _make_error(400)
        try:
            return await self._answer(request, rule)
        except _ClientGone:
            _cut_off(request)
            return web.Response(status=499)

    async def _answer(self, request: web.BaseRequest, rule: RoutingRule) -> web.StreamResponse:
        if rule.fixed_response is not None:
            return _make_fixed(rule.fixed_response)
        target = self._balancer.choose_target(rule.targets)
        if target is None:
            return _make_error(503)
        group = next(weighted.group for weighted in rule.targets if target in weighted.targets)
        try:
            with self._balancer.occupied(target):
                idle_seconds = rule.idle_timeout_seconds or self._idle_timeout_seconds
                return await self._forward(request, target, group, idle_seconds)
        except (aiohttp.ServerTimeoutError, asyncio.TimeoutError) as error:
            logger.debug("%s:%d is silent: %r", *target, error)
            return _make_error(504)
        except aiohttp.ClientError as error:
            logger.debug("%s:%d cannot answer: %r", *target, error)
            return _make_error(502)

    async def _forward(
        self, request: web.BaseRequest, target: Target, group: str, idle_seconds: float
    ) -> web.StreamResponse:
        body = await _take_body(request)
        began, status = time.monotonic(), None
        try:
            answer = await self._send(request, target, body, idle_seconds)
            status = answer.status
        finally:
            self._counts.add(group, status, time.monotonic() - began)
        async with answer:
            headers = _end_to_end(answer.headers)
            response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
            await _relay(request, response, answer)
        return response

    async def _send(
        self, request: web.BaseRequest, target: Target, body: _Body, idle_seconds: float
    ) -> aiohttp.ClientResponse:
        """Sends the request and returns the head of the target's response.

        A target that stops closes its idle connections while a request may be on its way: then no byte of a response
        arrives, and nothing was processed. Such a request is sent again, once, on a new connection, if its body is
        still available. A failure on a new connection is not retried: the target is broken.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=idle_seconds)
        trace = SimpleNamespace(is_reused=False, timeout=timeout)
        try:
            return await self._request(self._pooled, request, target, body=body, trace=trace)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not trace.is_reused or isinstance(body, aiohttp.StreamReader):
                raise
            return await self._request(self._fresh, request, target, body=body, trace=trace)

    async def _request(
        self,
        session: aiohttp.ClientSession,
        request: web.BaseRequest,
        target: Target,
        *,
        body: _Body,
        trace: SimpleNamespace,
    ) -> aiohttp.ClientResponse:
        host, port = target
        # encoded=True: the path is forwarded unchanged, including escapes.
        url = URL(f"http://{host}:{port}{request.rel_url.raw_path_qs}", encoded=True)
        try:
            return await session.request(
                request.method,
                url,
                headers=self._headers_for_target(request),
                data=body,
                allow_redirects=False,
                timeout=trace.timeout,
                trace_request_ctx=trace,
            )
        except aiohttp.ClientError as error:
            # If the client stops sending, the error looks like a failure of the target.
            if _is_gone(request):
                raise _ClientGone from error
            raise

    def _headers_for_target(self, request: web.BaseRequest) -> CIMultiDict[str]:
        headers = _end_to_end(request.headers)
        came_through = [*headers.popall("X-Forwarded-For", []), request.remote or "127.0.0.1"]
        headers["X-Forwarded-For"] = ", ".join(came_through)
        headers["X-Forwarded-Proto"] = "http"
        headers["X-Forwarded-Port"] = str(self._port)
        headers.setdefault("X-Amzn-Trace-Id", f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)}")
        return headers

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        async def note_reuse(session: Any, context: SimpleNamespace, parameters: Any) -> None:
            context.trace_request_ctx.is_reused = True

        tracing = aiohttp.TraceConfig()
        tracing.on_connection_reuseconn.append(note_reuse)
        session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            trace_configs=[tracing],
            max_line_size=HEADER_MAX_BYTES,
            max_field_size=HEADER_MAX_BYTES,
        )
        # Private, but aiohttp has no other switch: it retries GET and PUT even on new connections, so a target that
        # crashes on a request would get it twice.
        session._retry_connection = False
        return session


async def _take_body(request: web.BaseRequest) -> _Body:
    """Returns a small body as bytes, a larger one as a stream; None without a body."""
    if not request.can_read_body:
        return None
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # so that the response does not count as started
    if request.content_length is None or request.content_length > _RESENDABLE_BYTES:
        return request.content
    try:
        return await request.content.readexactly(request.content_length)
    except (aiohttp.ClientError, asyncio.IncompleteReadError, ConnectionError, web.RequestPayloadError) as error:
        raise _ClientGone from error


async def _relay(request: web.BaseRequest, response: web.StreamResponse, answer: aiohttp.ClientResponse) -> None:
    """Sends the response to the client; if it breaks off, the client's connection is aborted, not closed cleanly."""
    try:
        await response.prepare(request)
        while piece := await answer.content.readany():
            await response.write(piece)
        await response.write_eof()
    except ConnectionError as error:  # raised for the client only; aiohttp has other errors for the target
        raise _ClientGone from error
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        logger.debug("%s aborted its response: %r", answer.url, error)
        _cut_off(request)


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Returns the headers without hop-by-hop ones, which include those that `Connection` names."""
    named = {name.strip().lower() for value in headers.getall("Connection", []) for name in value.split(",")}
    dropped = _HOP_BY_HOP | named
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)


def _is_gone(request: web.BaseRequest) -> bool:
    return request.transport is None or request.transport.is_closing()


def _cut_off(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.close()


def _make_fixed(fixed: FixedResponse) -> web.Response:
    headers = {"Server": "awselb/2.0", "Content-Type": fixed.content_type}
    return web.Response(status=fixed.status, body=fixed.body.encode(), headers=headers)


def _make_error(status: int) -> web.Response:
    """Returns the error page of an ALB."""
    title = f"{status} {_REASONS[status]}"
    page = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
        "</body>\r\n</html>\r\n"
    )
    headers = {"Server": "awselb/2.0", "Content-Type": "text/html"}
    return web.Response(status=status, reason=_REASONS[status], body=page.encode(), headers=headers)

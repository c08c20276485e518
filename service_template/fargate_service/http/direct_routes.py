"""Answers the routes that predict before BentoML's router, with BentoML's metrics and lines in the access log."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from bentoml._internal.context import server_context
from starlette.requests import Request
from starlette.responses import Response

from fargate_service.http.middleware import App, Message, Receive, Scope, Send

Handler = Callable[[Request], Awaitable[Response]]
_LENGTH, _TYPE = b"content-length", b"content-type"


class DirectRoutes:
    """Answers POST requests to the paths of `handlers`; everything else goes on to the router."""

    def __init__(self, app: App, handlers: Mapping[str, Handler]) -> None:
        self._app = app
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = self._handlers.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if handler is None:
            await self._app(scope, receive, send)
            return
        response = await handler(Request(scope, receive))
        await response(scope, receive, send)


class _Counted(NamedTuple):
    """BentoML's metrics of one path."""

    last: Any
    in_progress: Any
    total: Callable[[int], Any]  # by status
    seconds: Callable[[int], Any]


class DirectRecord:
    """Measures and logs POST requests to `paths` as BentoML's two layers do, which took a third of a request's time.

    `app` is BentoML's layer for metrics, followed by the one for the access log; other requests take these.
    """

    def __init__(self, app: Any, paths: Collection[str]) -> None:
        self._app = app
        self._direct: App = app.app.app
        self._logger: logging.Logger = app.app.logger
        self._paths = paths
        self._counted = lru_cache(self._find_metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        counted = self._counted(scope["path"])
        counted.last.set(time.time())
        begun = time.perf_counter()
        status, sent_headers = 0, ()

        async def recorded(message: Message) -> None:
            nonlocal status, sent_headers
            if message["type"] == "http.response.start":
                status, sent_headers = message["status"], message["headers"]
            elif not message.get("more_body"):
                seconds = max(time.perf_counter() - begun, 0)
                counted.total(status).inc()
                counted.seconds(status).observe(seconds)
                await send(message)
                self._log(scope, f"status={status},{_content(sent_headers)}", seconds)
                return
            await send(message)

        counted.in_progress.inc()
        try:
            await self._direct(scope, receive, recorded)
        finally:
            counted.in_progress.dec()

    def _find_metrics(self, path: str) -> _Counted:
        if not self._app._is_setup:
            self._app._setup()
        names = {"service_name": server_context.bento_name, "service_version": server_context.bento_version}
        names["runner_name"] = server_context.service_name or ""

        def by_status(metric: Any) -> Callable[[int], Any]:
            return lru_cache(lambda status: metric.labels(endpoint=path, http_response_code=status, **names))

        return _Counted(
            self._app.metrics_last_request_timestamp.labels(**names),
            self._app.metrics_request_in_progress.labels(endpoint=path, **names),
            by_status(self._app.metrics_request_total),
            by_status(self._app.metrics_request_duration),
        )

    def _log(self, scope: Scope, answer: str, seconds: float) -> None:
        if not self._logger.isEnabledFor(logging.INFO):
            return
        client = "{}:{}".format(*scope["client"]) if scope.get("client") else "_"
        asked = f"scheme={scope['scheme']},method=POST,path={scope['path']},{_content(scope['headers'])}"
        line = f"{client} ({asked}) ({answer}) {1000 * seconds:.3f}ms"
        # Not `info`, which searches the stack for the caller's line.
        self._logger.handle(logging.LogRecord(self._logger.name, logging.INFO, __file__, 0, line, None, None))


def _content(headers: Any) -> str:
    named = dict(headers)
    return f"type={named.get(_TYPE, b'').decode()},length={named.get(_LENGTH, b'').decode()}"

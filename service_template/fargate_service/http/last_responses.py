"""Closes each connection with its last response, once the task is stopping."""

from __future__ import annotations

from fargate_service.http.middleware import App, Message, Receive, Scope, Send
from fargate_service.http.request_limits import Draining


class LastResponses:
    """Adds `Connection: close` while draining: a client that kept the connection would lose its next request."""

    def __init__(self, app: App, draining: Draining) -> None:
        self._app = app
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start" and self._draining.has_begun:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_last)

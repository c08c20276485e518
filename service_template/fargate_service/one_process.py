"""Serves a BentoML service with uvicorn in this process, as a worker of `bentoml serve` does, without a supervisor."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import uvicorn
from bentoml._internal.context import server_context
from bentoml._internal.utils.uri import join_paths

from fargate_service.cause import explain_and_exit, silence_start

if TYPE_CHECKING:
    import bentoml

    from fargate_service.http.middleware import App, Message, Receive, Scope, Send

# Enough for a handshake that has begun, and for the first request of a connection that was just accepted.
_LAST_CONNECTIONS_SECONDS = 0.3
_SO_ATTACH_FILTER = 26  # Linux; Python has no name for it
# For the segments of a listening socket: drop those with SYN set (bit 1 of byte 13 of TCP's header), take the others.
_NO_NEW_CONNECTIONS = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


def serve_in_this_process(service: bentoml.Service, host: str, port: int, *, keep_alive_seconds: int) -> None:
    """Returns after SIGTERM, once every request is answered; explains a failed start and exits."""
    # Bound now, so that a port in use is reported before the model loads, but refusing connections until it has.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    # As in BentoML's worker: the labels of its metrics and of its log.
    server_context.service_type = "entry_service"
    server_context.service_name = server_context.bento_name = service.name
    server_context.service_routes = [join_paths(service.path_prefix, api.route) for api in service.apis.values()]
    server_context.bento_version = "not available"
    silence_start()
    app = _KeptStartError(service.to_asgi())
    config = uvicorn.Config(app, log_config=None, server_header=False, timeout_keep_alive=keep_alive_seconds)
    try:
        _Server(config).run(sockets=[listener])
    except SystemExit:  # uvicorn's, after it logged that the start failed
        if app.error is None:
            raise
        explain_and_exit(app.error)


class _KeptStartError:
    """Keeps what the start failed with; uvicorn would only log it, with the frames of everything between."""

    def __init__(self, app: App) -> None:
        self.error: BaseException | None = None
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        has_started = False

        async def send_briefly(message: Message) -> None:
            nonlocal has_started
            has_started = has_started or message["type"] == "lifespan.startup.complete"
            if not has_started:
                message.pop("message", None)  # Starlette's traceback
            await send(message)

        try:
            await self._app(scope, receive, send_briefly)
        except BaseException as error:
            self.error = None if has_started else error
            raise


class _Server(uvicorn.Server):
    """uvicorn, but a connection that a client has opened is not reset when the socket closes."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in sockets or ():
            _refuse_new_connections(listener)
        await asyncio.sleep(_LAST_CONNECTIONS_SECONDS)
        await super().shutdown(sockets)


def _refuse_new_connections(listener: socket.socket) -> None:
    """Keeps the kernel from opening connections that nobody would accept any more; the client's is refused later.

    Source: socket(7), SO_ATTACH_FILTER.
    """
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_NEW_CONNECTIONS))
    program = struct.pack("HL", len(_NO_NEW_CONNECTIONS), ctypes.addressof(code))
    with suppress(OSError):  # not every sandbox supports it
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

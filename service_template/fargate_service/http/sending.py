"""Sends a response as fast as the client takes it, so that its memory stays reserved as long as it is needed.

uvicorn takes a body of any size at once, and keeps in memory what the client has not taken: for the routes, the
response would be sent, and what it takes would be free for others. It also writes the head of a response by itself.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    from async_timeout import timeout  # type: ignore[import-not-found]  # aiohttp, which BentoML requires, brings it

if TYPE_CHECKING:
    from uvicorn.protocols.http.flow_control import FlowControl

    from fargate_service.http.middleware import Message, Send

FLOW = "fargate.flow"  # in the scope: uvicorn's FlowControl
_PIECE_BYTES = 1 << 16  # what uvicorn keeps before it waits for the client
_CONTINUE = b"HTTP/1.1 100 "  # comes before the response


class ClientStalled(Exception):
    """The client has taken nothing of the response for a while."""


def at_the_clients_pace(send: Send, timeout_seconds: float, flow: FlowControl | None = None) -> Send:
    """Returns a `send` that waits for the client; ClientStalled if it takes nothing for `timeout_seconds`.

    `flow` is the server's, which knows whether there is anything to wait for.
    """

    async def send_in_pieces(message: Message) -> None:
        for piece in _pieces(message):
            if flow is not None and not flow.write_paused:
                await send(piece)
                continue
            try:
                async with timeout(timeout_seconds):
                    await send(piece)
            except asyncio.TimeoutError as error:
                raise ClientStalled from error

    return send_in_pieces


def _pieces(message: Message) -> Iterator[Message]:
    body = message.get("body", b"")
    if len(body) <= _PIECE_BYTES:
        yield message
        return
    for begin in range(0, len(body), _PIECE_BYTES):
        yield {"type": message["type"], "body": body[begin : begin + _PIECE_BYTES], "more_body": True}
    # By itself, so that it waits until the client has taken the last piece, too.
    yield {**message, "body": b""}


class HeadWithBody:
    """A connection for one response, which writes its head with the first of its body: each write wakes the client.

    Heads of streams, which have no length, are written at once.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self._has_begun = False
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if not self._has_begun and not data.startswith(_CONTINUE):
            self._has_begun = True
            if b"\r\ncontent-length: " in data:
                self._head = data
                return
        self._transport.write(self._head + data)
        self._head = b""

    def close(self) -> None:
        if self._head:
            self.write(b"")
        self._transport.close()

"""Sends a response as fast as the client takes it, so that its memory stays reserved as long as it is needed.

uvicorn takes a body of any size at once, and keeps in memory what the client has not taken: for the routes, the
response would be sent, and what it takes would be free for others.
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
    from fargate_service.http.middleware import Message, Send

_PIECE_BYTES = 1 << 16  # what uvicorn keeps before it waits for the client


class ClientStalled(Exception):
    """The client has taken nothing of the response for a while."""


def at_the_clients_pace(send: Send, timeout_seconds: float) -> Send:
    """Returns a `send` that waits for the client; ClientStalled if it takes nothing for `timeout_seconds`."""

    async def send_in_pieces(message: Message) -> None:
        for piece in _pieces(message):
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

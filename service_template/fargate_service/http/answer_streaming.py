"""Streamed responses: the format that the caller accepts, and the chunks encoded in it.

Accept: text/event-stream      data: JSON, one event per chunk (HTML Living Standard, server-sent events)
Accept: application/x-ndjson   JSON, one line per chunk
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from starlette.requests import Request

from fargate_service.errors import RequestError, make_error_body

EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
_END = object()

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


def asked_form(request: Request) -> str | None:
    """Returns the media type in which the caller accepts a stream; None if a single response is accepted."""
    accepted = [part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    if "application/json" in accepted or "*/*" in accepted:
        return None
    return next((form for form in (EVENTS, LINES) if form in accepted), None)


async def encode_pieces(pieces: Iterator[Any], form: str, in_thread: InThread) -> AsyncIterator[bytes]:
    """Yields the chunks as bytes; a failure is the last chunk, since the status has already been sent."""
    while True:
        try:
            piece = await in_thread(lambda: next(pieces, _END))
        except RequestError as error:
            yield _encode(make_error_body(error.status, error.message, error.code), form, event="error")
            return
        if piece is _END:
            return
        yield _encode(json.dumps(piece, default=str).encode(), form)


def _encode(document: bytes, form: str, event: str | None = None) -> bytes:
    if form == LINES:
        return document + b"\n"
    name = f"event: {event}\n".encode() if event else b""
    return name + b"data: " + document + b"\n\n"

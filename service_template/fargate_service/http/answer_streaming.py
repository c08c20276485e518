"""Streamed responses: the format that the caller accepts, and the chunks encoded in it.

Accept: text/event-stream      data: JSON, one event per chunk (HTML Living Standard, server-sent events)
Accept: application/x-ndjson   JSON, one line per chunk

Events are those that the clients of Databricks, of MLflow's AgentServer and of OpenAI read: only `data` lines, an error
as {"error": …}, and [DONE] last, without which the stream was cut.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

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
    try:
        while (piece := await in_thread(lambda: next(pieces, _END))) is not _END:
            yield _encode(json.dumps(piece, default=str).encode(), form)
    except RequestError as error:
        document = make_error_body(error.status, error.message, error.code)
        yield _encode(document if form == LINES else b'{"error": %s}' % document, form)
    if form == EVENTS:
        yield _encode(b"[DONE]", form)


class PieceResponse(StreamingResponse):
    """A streamed response; calls `end` once it is sent, or its client has left."""

    def __init__(self, content: AsyncIterator[bytes], form: str, end: Callable[[], None]) -> None:
        super().__init__(content, media_type=form, headers={"Cache-Control": "no-store"})
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._end()


def _encode(document: bytes, form: str) -> bytes:
    return document + b"\n" if form == LINES else b"data: " + document + b"\n\n"

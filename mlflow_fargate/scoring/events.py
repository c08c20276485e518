"""Parses a stream of events: `data` lines with JSON, an error as {"error": …}, and [DONE] last. Pure.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from mlflow_fargate.errors import PredictionFailed

_SHOWN_CHARACTERS = 500


def parse_events(lines: Iterable[bytes], url: str) -> Iterator[Any]:
    """Yields the document of each event; raises PredictionFailed for an error, or if the last event is missing."""
    for line in lines:
        name, _, value = line.partition(b":")
        if name != b"data":  # a blank line, a comment that keeps the connection open, or a field for browsers
            continue
        if value.strip() == b"[DONE]":
            return
        try:
            document = json.loads(value)
        except ValueError as error:
            shown = value[:_SHOWN_CHARACTERS].decode("utf-8", "replace")
            raise PredictionFailed(f"{url} streamed an event that is not JSON: {shown}") from error
        if isinstance(document, dict) and document.keys() == {"error"}:
            said = document["error"]
            message = said.get("message", said) if isinstance(said, dict) else said
            raise PredictionFailed(f"{url} stopped streaming: {str(message)[:_SHOWN_CHARACTERS]}")
        yield document
    raise PredictionFailed(
        f"{url} ended the stream without [DONE], so chunks may be missing.",
        hint="the task may have ended, or the load balancer's idle timeout may have passed between two chunks",
    )

"""Times in AWS's responses, as ISO 8601 strings in UTC."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any


def iso(moment: Any) -> str:
    """Returns a datetime of boto3 as a string; strings are returned unchanged."""
    if isinstance(moment, datetime):
        return moment.astimezone(timezone.utc).isoformat(timespec="seconds")
    return str(moment)


def iso_or_none(moment: Any) -> str | None:
    """Returns None if the response has no such time: it has not happened yet."""
    return None if moment is None else iso(moment)

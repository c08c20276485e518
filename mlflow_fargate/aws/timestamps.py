"""Moments as AWS's answers have them, as ISO 8601 texts in UTC."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any


def iso(moment: Any) -> str:
    """boto3 gives datetimes; a text is passed on."""
    if isinstance(moment, datetime):
        return moment.astimezone(timezone.utc).isoformat(timespec="seconds")
    return str(moment)


def iso_or_none(moment: Any) -> str | None:
    """None where the answer left it out: it has not happened."""
    return None if moment is None else iso(moment)

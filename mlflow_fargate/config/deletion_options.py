"""Options of a deletion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_fargate.errors import InvalidOption

RETAINABLE = ("images", "logs")


def parse_retain(options: Mapping[str, Any] | None) -> frozenset[str]:
    """Returns what to keep of a deployment (`retain=images,logs`); InvalidOption for any other option."""
    for key in options or {}:
        if key != "retain":
            raise InvalidOption(
                f"Unknown option '{key}' for delete.", hint="use retain=images, retain=logs or retain=images,logs"
            )
    given = (options or {}).get("retain") or ()
    words = [word.strip() for word in given.split(",")] if isinstance(given, str) else list(given)
    if wrong := [word for word in words if word not in RETAINABLE]:
        raise InvalidOption(
            f"Option retain={given!r}: '{wrong[0]}' is not supported.",
            hint="use retain=images, retain=logs or retain=images,logs",
        )
    return frozenset(words)

"""Recognizes repeated deliveries: MLflow sends an event up to four times, with the same delivery ID."""

from __future__ import annotations

import threading
from collections import OrderedDict

# Retries of a delivery arrive within ten seconds. A forgotten ID only causes one extra poll.
_REMEMBERED = 10_000


class SeenDeliveries:
    """The most recent delivery IDs, in bounded memory; thread-safe."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def is_new(self, delivery_id: str | None) -> bool:
        """Returns True the first time an ID is passed, and always without an ID."""
        if delivery_id is None:
            return True
        with self._lock:
            if delivery_id in self._ids:
                return False
            self._ids[delivery_id] = None
            if len(self._ids) > self._remembered:
                self._ids.popitem(last=False)
            return True

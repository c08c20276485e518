"""Which deliveries were taken already: MLflow tries up to four times, and says so only by the same delivery id."""

from __future__ import annotations

import threading
from collections import OrderedDict

# Tries of one delivery come within ten seconds. What is forgotten makes one look too many, and nothing worse.
_REMEMBERED = 10_000


class SeenDeliveries:
    """The last delivery ids, in memory that does not grow; threads may share it."""

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def is_new(self, delivery_id: str | None) -> bool:
        """True the first time that an id is shown; always where the sender gives none."""
        if delivery_id is None:
            return True
        with self._lock:
            if delivery_id in self._ids:
                return False
            self._ids[delivery_id] = None
            if len(self._ids) > self._remembered:
                self._ids.popitem(last=False)
            return True

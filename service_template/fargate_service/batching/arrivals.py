"""Requests on their way to the model, so that a batch can wait a moment for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

Result = TypeVar("Result")


class Arrivals:
    """Knows the requests that were received and have not reached the model yet: they are being parsed."""

    def __init__(self) -> None:
        self._coming: set[object] = set()
        self._is_enough = False
        self._changed = threading.Condition()

    def announce(self) -> object:
        """Adds a request; returns what identifies it."""
        request = object()
        with self._changed:
            self._coming.add(request)
        return request

    def announced(self, function: Callable[[], Result]) -> Result:
        """Calls `function` for a request that is on its way until it arrives or ends."""
        request = self.announce()
        try:
            return self.run(request, function)
        finally:
            self.end(request)

    def run(self, request: object, function: Callable[[], Result]) -> Result:
        """Calls `function`, in which `arrive` means this request."""
        _current.set(request)
        return function()

    def arrive(self, *, is_enough: bool = False) -> None:
        """Removes the current request, if it was announced; a batch that is full does not wait for others."""
        with self._changed:
            self._is_enough = is_enough
        self.end(_current.get())

    def end(self, request: object) -> None:
        """Removes `request`, which has arrived or will not."""
        with self._changed:
            self._coming.discard(request)
            if not self._coming or self._is_enough:
                self._changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Returns when nobody is on the way, or enough have arrived, but after `seconds` at the latest."""
        with self._changed:
            self._changed.wait_for(lambda: not self._coming or self._is_enough, seconds)


# The thread that predicts does not know the request's announcement otherwise: MLflow's code is in between.
_current: ContextVar[object] = ContextVar("announced request", default=None)

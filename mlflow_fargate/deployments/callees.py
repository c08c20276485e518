"""What `predict` needs to call a deployment, kept for a minute, so that most predictions make no call to AWS.

Kept in memory only, by each client object. After a failure that something newer may explain, it is read again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlflow_fargate import scoring
from mlflow_fargate.errors import PredictionFailed

_KEPT_SECONDS = 60.0
# Another key, another address, or a load balancer that was created again.
_OUTDATED = frozenset({401, 404, None})


@dataclass(frozen=True)
class Callee:
    """A deployment, as callers need to know it."""

    url: str
    api_key: str | None = field(repr=False)
    is_custom_service: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)


class Callees:
    """The deployments that one client called lately, by endpoint and name, and its HTTP connections."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], tuple[float, Callee]] = {}
        self._http = scoring.make_http()

    def predict(self, place: tuple[str, str], read: Callable[[], Callee], inputs: Any, timeout_seconds: float) -> Any:
        """Returns the answer of the deployment at `place`, which `read` reads from AWS if it is not known yet."""
        known = self._get(place)
        callee = known or self._keep(place, read())
        try:
            return self._score(callee, inputs, timeout_seconds)
        except PredictionFailed as error:
            if error.status not in _OUTDATED and (error.status or 0) < 500:
                raise
            with self._lock:
                self._known.pop(place, None)
            is_safe = error.status in (401, 404) or not (error.is_late or callee.is_custom_service)
            newer = self._keep(place, read()) if known and is_safe else callee
            if newer == callee:
                raise
            return self._score(newer, inputs, timeout_seconds)

    def _score(self, callee: Callee, inputs: Any, timeout_seconds: float) -> Any:
        return scoring.score(
            callee.url,
            inputs,
            api_key=callee.api_key,
            headers=callee.headers,
            timeout_seconds=timeout_seconds,
            is_custom_service=callee.is_custom_service,
            http=self._http,
        )

    def _get(self, place: tuple[str, str]) -> Callee | None:
        with self._lock:
            until, callee = self._known.get(place, (0.0, None))
            return callee if self._clock() < until else None

    def _keep(self, place: tuple[str, str], callee: Callee) -> Callee:
        with self._lock:
            self._known[place] = self._clock() + _KEPT_SECONDS, callee
        return callee

"""Looks, decides, acts: when it is told to, and every so often by itself.

One thread looks (all deployments, one list call, one question to the registry), a few threads act. A deployment is in
the hands of at most one of them. There is no queue of events: hints only make the next look come sooner, so lost,
doubled and reordered ones change nothing, and nothing is lost when the process ends.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any, Protocol

from mlflow_fargate.deployment import without_credentials
from mlflow_fargate.errors import RolloutFailed

from .model_registry import ModelRegistry, ModelState
from .reconcile import Action, Deployed, Memory, decide, remember_failure, remember_look

logger = logging.getLogger(__name__)


class Deployments(Protocol):
    """The verbs of `mlflow.deployments` that are used."""

    def list_deployments(self) -> list[dict[str, Any]]: ...

    def update_deployment(
        self, name: str, model_uri: str | None = None, flavor: str | None = None, config: Any = None
    ) -> Any: ...


class Worker:
    """Keeps deployments at the versions the registry names. `connect` gives a client that threads may share."""

    def __init__(
        self,
        *,
        connect: Callable[[], Deployments],
        registry: ModelRegistry,
        poll_seconds: float = 30,
        threads: int = 2,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._connect = connect
        self._registry = registry
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._jitter = jitter
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._tasks: queue.SimpleQueue[tuple[Deployed, str] | None] = queue.SimpleQueue()
        # Daemons: a rollout takes minutes, and one that is left half way is finished by the next process.
        self._looker = threading.Thread(target=self._keep_looking, name="look", daemon=True)
        self._actors = [threading.Thread(target=self._keep_acting, name="act", daemon=True) for _ in range(threads)]
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._memories: dict[str, Memory] = {}
        self._seen: dict[str, tuple[Deployed, Action]] = {}
        self._looked_at: float | None = None
        self._error: str | None = None

    def start(self) -> None:
        """Begins to look."""
        for thread in (self._looker, *self._actors):
            thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Begins nothing more and waits for what is under way; False when some of it is not done in time."""
        self._stopping.set()
        self._wake.set()
        for _ in self._actors:
            self._tasks.put(None)
        deadline = time.monotonic() + timeout_seconds
        for thread in (self._looker, *self._actors):
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._actors)

    def hint(self, model_name: str) -> bool:
        """Makes the next look come now, if a deployment follows this model; True if so."""
        with self._lock:
            is_watched = any(deployed.model_name == model_name for deployed, _ in self._seen.values())
        if is_watched:
            self._wake.set()
        return is_watched

    @property
    def is_alive(self) -> bool:
        """True while it looks by itself."""
        return self._looker.is_alive()

    @property
    def is_ready(self) -> bool:
        """True when the last look was not long ago and saw both sides."""
        with self._lock:
            looked_at = self._looked_at
        return self.is_alive and looked_at is not None and self._clock() - looked_at < 10 * self._poll_seconds + 60

    def status(self) -> dict[str, Any]:
        """What was seen and decided at the last look, as JSON can say it."""
        with self._lock:
            return {
                "looked_at": _iso(self._looked_at),
                "error": self._error,
                "deployments": [
                    {**asdict(deployed), "action": asdict(action), "is_updating": name in self._busy}
                    for name, (deployed, action) in sorted(self._seen.items())
                ],
            }

    def look(self) -> None:
        """One look at everything; what is to be done is handed to the acting threads."""
        with self._lock:
            busy_before = set(self._busy)
        listed = [Deployed.parse(item) for item in self._connect().list_deployments()]
        watched = [deployed for deployed in listed if deployed.is_watched]
        names = {deployed.model_name for deployed in watched if deployed.model_name}
        states = self._registry.look(names) if names else {}
        with self._lock:
            self._seen = {name: seen for name, seen in self._seen.items() if name in {one.name for one in watched}}
            # What was being updated when the list was made may stand there as it was before.
            busy = busy_before | self._busy
        for deployed in watched:
            self._consider(deployed, states.get(deployed.model_name or ""), is_busy=deployed.name in busy)
        with self._lock:
            self._looked_at, self._error = self._clock(), None

    def _consider(self, deployed: Deployed, state: ModelState | None, *, is_busy: bool) -> None:
        memory = self._memories.get(deployed.name, Memory())
        action = decide(state, deployed, memory, self._clock())
        if is_busy and action.kind == "update":
            action = Action("hold", "an update is under way", action.version)
        if action.kind == "update":
            # The quick look tells one version a stage. Before anything is changed, all of them, and once more.
            state = self._registry.look_closely(deployed.model_name or "")
            action = decide(state, deployed, memory, self._clock())
        with self._lock:
            before = self._seen.get(deployed.name)
            self._seen[deployed.name] = (deployed, action)
            if not is_busy:
                self._memories[deployed.name] = remember_look(memory, deployed, action.version)
            if action.kind == "update" and action.version and not self._stopping.is_set():
                self._busy.add(deployed.name)
                self._tasks.put((deployed, action.version))
        if before is None or before[1] != action:
            level = logging.WARNING if action.warning else logging.INFO
            logger.log(level, "%s: %s (%s)", deployed.name, action.kind, action.warning or action.reason)

    def _keep_looking(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self.look()
            except Exception as error:  # whatever it was, the next look may succeed, and must come
                said = without_credentials(f"{type(error).__name__}: {error}")
                logger.warning("could not look: %s", said)
                with self._lock:
                    self._error = said
            self._wake.wait(self._poll_seconds * self._jitter(0.8, 1.2))

    def _keep_acting(self) -> None:
        while task := self._tasks.get():
            deployed, version = task
            try:
                if not self._stopping.is_set():
                    self._update(deployed, version)
            finally:
                with self._lock:
                    self._busy.discard(deployed.name)
                # The registry may have moved on meanwhile.
                self._wake.set()

    def _update(self, deployed: Deployed, version: str) -> None:
        name, model_uri = deployed.name, f"models:/{deployed.model_name}/{version}"
        logger.info("%s: updating to %s", name, model_uri)
        try:
            self._connect().update_deployment(
                name, model_uri=model_uri, flavor=deployed.flavor, config={"follow": deployed.follow}
            )
        except Exception as error:  # it is remembered, shown and tried again; one deployment must not stop the others
            said = without_credentials(f"{type(error).__name__}: {error}")
            logger.warning("%s: version %s could not be deployed: %s", name, version, said)
            is_final = isinstance(error, RolloutFailed)
            with self._lock:
                memory = self._memories.get(name, Memory())
                self._memories[name] = remember_failure(memory, version, said, is_final=is_final, now=self._clock())
        else:
            logger.info("%s: version %s is deployed", name, version)
            with self._lock:
                self._memories.pop(name, None)


def _iso(moment: float | None) -> str | None:
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="seconds") if moment else None

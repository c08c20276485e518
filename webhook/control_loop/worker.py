"""The control loop: polls, decides and acts, periodically and on each hint.

One thread polls (all deployments, one list call per endpoint, one registry request); a few threads act. At most one of
them works on a deployment at a time. There is no queue of events: a hint only triggers the next poll earlier, so lost,
duplicate and reordered hints are harmless, and nothing is lost when the process ends.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mlflow_fargate.resolved_model import without_credentials
from mlflow_fargate.webhook.control_loop.actor import Deployments, Outcome, act
from mlflow_fargate.webhook.control_loop.model_registry import ModelState, ModelStateSource
from mlflow_fargate.webhook.control_loop.observe import in_short, observe
from mlflow_fargate.webhook.control_loop.reconcile import (
    FIRST_RETRY_SECONDS,
    Action,
    Deployed,
    Memory,
    decide,
    held_versions,
    remember_failure,
    remember_holder,
    remember_look,
    remember_retry,
)
from mlflow_fargate.webhook.control_loop.rules import RuleBook
from mlflow_fargate.webhook.control_loop.watch import RULE_WITHOUT_EFFECT, Watch

logger = logging.getLogger(__name__)

_ACTS = {"create", "update", "scale_to_zero", "delete"}


@dataclass(frozen=True)
class Seen:
    """A deployment as of the last poll."""

    deployed: Deployed
    action: Action
    is_updating: bool = False
    last_outcome: Outcome | None = None


@dataclass(frozen=True)
class Timing:
    """When a worker polls and retries, and its clock."""

    poll_seconds: float = 30
    rest_seconds: float = 1  # between two polls, however many events arrive
    retry_seconds: float = FIRST_RETRY_SECONDS
    clock: Callable[[], float] = time.time  # seconds since 1970
    jitter: Callable[[float, float], float] = random.uniform  # of the polls, so that many workers do not poll at once


class Worker:
    """Keeps deployments at the registry's versions. `connect` returns a client that threads can share.

    `listeners` are called after each change, on the thread that made it, so they must be fast. While `may_act` returns
    False, another replica acts and this one only polls.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], Deployments],
        registry: ModelStateSource,
        rules: RuleBook | None = None,
        timing: Timing = Timing(),  # frozen
        threads: int = 2,
        listeners: Sequence[Callable[[Outcome], None]] = (),
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        self._connect = connect
        self._registry = registry
        self._rules = rules or RuleBook()
        self._timing = timing
        self._clock = timing.clock
        self._listeners = listeners
        self._may_act = may_act
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._tasks: queue.SimpleQueue[tuple[Watch, Action] | None] = queue.SimpleQueue()
        # Daemons: a rollout takes minutes, and the next process finishes an interrupted one.
        self._looker = threading.Thread(target=self._keep_looking, name="look", daemon=True)
        self._actors = [threading.Thread(target=self._keep_acting, name="act", daemon=True) for _ in range(threads)]
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._memories: dict[str, Memory] = {}
        self._seen: dict[str, Seen] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._looked_at: float | None = None
        self._error: str | None = None
        self.next_look_at: float | None = None  # seconds since 1970, unless an event comes earlier

    def start(self) -> None:
        """Starts polling."""
        for thread in (self._looker, *self._actors):
            thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Starts no more changes and waits for running ones; returns False if they do not finish in time."""
        self._stopping.set()
        self._wake.set()
        for _ in self._actors:
            self._tasks.put(None)
        deadline = time.monotonic() + timeout_seconds
        for thread in (self._looker, *self._actors):
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._actors)

    def wake(self) -> None:
        """Triggers a poll now."""
        self._wake.set()

    def hint(self, model_name: str) -> bool:
        """Triggers a poll now; returns True if the model was watched at the last poll, or matches a rule.

        Others trigger one as well: what the event is about can be newer than the last poll.
        """
        rules = self._rules.rules
        with self._lock:
            is_watched = any(
                seen.deployed.is_watched and seen.deployed.model_name == model_name for seen in self._seen.values()
            )
        self._wake.set()
        return is_watched or any(rule.matches(model_name) for rule in rules.rules)

    def retry(self, key: str) -> bool:
        """Retries a blocked or backed-off deployment now; returns False if it is not watched."""
        with self._lock:
            seen = self._seen.get(key)
            if seen is None or not seen.deployed.is_watched:
                return False
            self._memories[key] = remember_retry(seen.deployed, seen.action.version)
        self._wake.set()
        return True

    @property
    def is_alive(self) -> bool:
        """True while the polling thread is running."""
        return self._looker.is_alive()

    @property
    def is_ready(self) -> bool:
        """True if both sides were read recently."""
        with self._lock:
            looked_at = self._looked_at
        return (
            self.is_alive and looked_at is not None and self._clock() - looked_at < 10 * self._timing.poll_seconds + 60
        )

    @property
    def rules_error(self) -> str | None:
        """What is wrong with the current rules, if anything; the last valid ones stay in force."""
        return self._rules.error

    @property
    def looked_at(self) -> float | None:
        """When both sides were last read, in seconds since 1970."""
        with self._lock:
            return self._looked_at

    @property
    def error(self) -> str | None:
        """Why the last poll failed; None if it succeeded."""
        with self._lock:
            return self._error

    def seen(self) -> dict[str, Seen]:
        """Returns what was observed and decided at the last poll, by deployment."""
        with self._lock:
            return {
                key: replace(seen, is_updating=key in self._busy, last_outcome=self._outcomes.get(key))
                for key, seen in sorted(self._seen.items())
            }

    def look(self) -> None:
        """Polls everything once and queues the changes for the acting threads."""
        with self._lock:
            busy_before = set(self._busy)
        rules = self._rules.current()
        if self._rules.error:
            logger.error("rules: %s", self._rules.error)
        watches, states, problems = observe(self._connect(), self._registry, rules)
        with self._lock:
            self._seen = {key: seen for key, seen in self._seen.items() if key in {one.deployed.key for one in watches}}
            # The list can show the previous state of deployments that were changing at the time.
            busy = busy_before | self._busy
        for watch in watches:
            state = states.get(watch.deployed.model_name or "")
            try:
                self._consider(watch, state, is_busy=watch.deployed.key in busy)
            except Exception as error:  # whatever one model says, the others are looked at
                logger.exception("%s: unexpected error", watch.deployed.key)
                problems.append(f"{watch.deployed.key}: {type(error).__name__}")
        with self._lock:
            self._looked_at, self._error = self._clock(), in_short(problems)

    def _consider(self, watch: Watch, state: ModelState | None, *, is_busy: bool) -> None:
        deployed = watch.deployed
        with self._lock:
            memory = remembered = self._memories.get(deployed.key, Memory())
        if state is not None and deployed.is_watched:
            memory = remember_holder(memory, bool(held_versions(state, deployed.follow)), self._clock())
        action = self._decide(watch, state, memory, is_busy=is_busy)
        with self._lock:
            before = self._seen.get(deployed.key)
            self._seen[deployed.key] = Seen(deployed, action)
            # A retry may have been requested in the meantime.
            if not is_busy and self._memories.get(deployed.key, Memory()) == remembered:
                self._memories[deployed.key] = remember_look(memory, deployed, action.version)
            if action.kind in _ACTS and not self._stopping.is_set():
                self._busy.add(deployed.key)
                self._tasks.put((watch, action))
        if before is None or before.action != action:
            level = logging.WARNING if action.warning else logging.INFO
            kind = "nothing to do" if action.kind == "nothing" else action.kind
            logger.log(level, "%s: %s (%s)", deployed.key, kind, action.warning or action.reason)

    def _decide(self, watch: Watch, state: ModelState | None, memory: Memory, *, is_busy: bool) -> Action:
        if watch.conflict:
            return Action("hold", watch.conflict, warning=watch.conflict)
        deployed, on_demotion = watch.deployed, watch.rule.on_demotion if watch.rule else "keep"
        action = decide(state, deployed, memory, self._clock(), on_demotion)
        if watch.rule and not deployed.is_watched:
            action = replace(action, warning=RULE_WITHOUT_EFFECT)
        if action.kind not in _ACTS:
            return action
        if is_busy:
            return Action("hold", "a change is in progress", action.version)
        if not self._may_act():
            return Action("hold", "another replica is active", action.version)
        # The poll reads one version per stage. Before a change, read all of them again.
        try:
            state = self._registry.look_closely(deployed.model_name or "")
        except Exception as error:  # continue with the other deployments
            said = without_credentials(f"{type(error).__name__}: {error}")
            return Action("hold", "the model registry did not respond", action.version, warning=said)
        return decide(state, deployed, memory, self._clock(), on_demotion)

    def _keep_looking(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self.look()
            except Exception as error:  # whatever the error, the next poll must run and may succeed
                said = without_credentials(f"{type(error).__name__}: {error}")
                logger.warning("cannot read the registry or AWS: %s", said)
                with self._lock:
                    self._error = said
            self._stopping.wait(min(self._timing.rest_seconds, self._timing.poll_seconds))
            seconds = self._timing.poll_seconds * self._timing.jitter(0.8, 1.2)
            self.next_look_at = self._clock() + seconds
            self._wake.wait(seconds)

    def _keep_acting(self) -> None:
        while task := self._tasks.get():
            watch, action = task
            try:
                if self._may_act() and not self._stopping.is_set():
                    self._act(watch, action)
            except Exception:  # a bug: this deployment is polled again, and the others continue
                logger.exception("%s: unexpected error during the change", watch.deployed.key)
            finally:
                with self._lock:
                    self._busy.discard(watch.deployed.key)
                # The registry may have changed in the meantime.
                self._wake.set()

    def _act(self, watch: Watch, action: Action) -> None:
        key = watch.deployed.key
        logger.info("%s: starting %s (model '%s')", key, action.title, watch.deployed.model_name)
        outcome = act(self._connect(), watch, action, self._clock)
        with self._lock:
            self._outcomes[key] = outcome
            memory = self._memories.pop(key, Memory())
            if outcome.result != "success":
                self._memories[key] = remember_failure(
                    memory,
                    outcome.version or "",
                    outcome.reason,
                    is_final=outcome.result == "rollback",
                    registered_ms=action.registered_ms,
                    now=self._clock(),
                    first_retry_seconds=self._timing.retry_seconds,
                )
        facts = {"deployment": key, "model": outcome.model_name, "duration_seconds": outcome.duration_seconds}
        if outcome.result == "success":
            logger.info("%s: %s succeeded", key, action.title, extra=facts)
        else:
            logger.warning("%s: %s failed: %s", key, action.title, outcome.reason, extra=facts)
        for listener in self._listeners:
            listener(outcome)

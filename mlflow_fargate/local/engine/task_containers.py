"""The containers of one task: started in the order of `dependsOn`, watched, and stopped in the reverse order.

    step()    starts what can start; after stop(), sends SIGTERM and, after the stop timeout, SIGKILL
    wait()    notices what ended

Not thread-safe: only the task's thread calls it, except that probes report health.
Source: "Container dependency" in ECS's developer guide, and the ECS agent's dependencygraph.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow_fargate.local.container.task_runner import StartedTask
from mlflow_fargate.local.engine.container_health import ContainerProbe
from mlflow_fargate.local.engine.state import ContainerStatus
from mlflow_fargate.local.task_definition import Container, HealthCheck

_HURRIED_STOP_SECONDS = 2.0
_UNRESOLVED_EXIT_CODE = 143  # the agent's, for a container that it never started


@dataclass
class _Member:
    definition: Container
    status: ContainerStatus
    started: StartedTask | None = None
    started_at: float = 0.0
    probe: ContainerProbe | None = None
    stops_until: float | None = None  # when SIGKILL follows SIGTERM

    @property
    def is_running(self) -> bool:
        return self.status.last_status == "RUNNING"

    @property
    def has_ended(self) -> bool:
        return self.status.last_status == "STOPPED"


class TaskContainers:
    """`starts` start containers, by name; `probe` starts health checks; `on_change` gets all statuses on a change."""

    def __init__(
        self,
        containers: Sequence[tuple[Container, ContainerStatus]],
        starts: Mapping[str, Callable[[], StartedTask]],
        probe: Callable[[Container, HealthCheck, Callable[[str], None]], ContainerProbe],
        on_change: Callable[[tuple[ContainerStatus, ...]], None],
    ) -> None:
        self._members = {definition.name: _Member(definition, status) for definition, status in containers}
        self._starts = starts
        self._start_probe = probe
        self._on_change = on_change
        self._changing = threading.Lock()
        self._is_stopping = False
        self._latest_end = float("inf")

    def __getitem__(self, name: str) -> StartedTask:
        """Returns a container that was started."""
        started = self.get(name)
        assert started is not None, f"{name} was not started"  # noqa: S101
        return started

    def get(self, name: str) -> StartedTask | None:
        """Returns a container; None if it was not started, or never will be."""
        return self._members[name].started

    @property
    def have_started(self) -> bool:
        """Whether all have, except those that never will and that the task does not need."""
        return all(
            member.started is not None or (member.has_ended and not member.definition.is_essential)
            for member in self._members.values()
        )

    @property
    def have_ended(self) -> bool:
        return not any(member.is_running for member in self._members.values())

    @property
    def essential_ended(self) -> bool:
        """Whether the task has to stop; also if all other containers ended."""
        members = self._members.values()
        return any(member.has_ended and member.definition.is_essential for member in members) or all(
            member.has_ended for member in members
        )

    def step(self) -> None:
        """Starts or stops what can be; TaskFailedToStart has the task's stoppedReason."""
        for member in self._members.values():
            if self._is_stopping:
                self._stop_member(member)
            elif member.status.last_status == "PENDING":
                self._start_member(member)

    def wait(self, seconds: float) -> None:
        """Waits up to `seconds` for containers to end."""
        running = [member for member in self._members.values() if member.is_running]
        for member in running:
            code = self[member.definition.name].wait(seconds / len(running))
            if code is not None:
                self._end(member, code)
        if not running:
            time.sleep(seconds)

    def stop(self) -> None:
        self._is_stopping = True

    def hurry(self) -> None:
        """Shortens the stop timeouts to seconds."""
        self._latest_end = min(self._latest_end, time.monotonic() + _HURRIED_STOP_SECONDS)

    def kill(self) -> None:
        """Kills what is running."""
        for member in self._members.values():
            if member.is_running:
                self._end(member, self[member.definition.name].kill())

    def _start_member(self, member: _Member) -> None:
        needed = [
            (self._members[name], wanted) for name, wanted in member.definition.depends_on if name in self._members
        ]
        for dependency, condition in needed:
            if failure := self._failure(dependency, condition):
                said = f"[{dependency.definition.name}] for target [{member.definition.name}] {failure}"
                said = f"CannotStartContainerError: dependency graph: container ordering dependency {said}"
                self._change(member, last_status="STOPPED", exit_code=_UNRESOLVED_EXIT_CODE, reason=said)
                return
        if not all(self._is_met(dependency, condition) for dependency, condition in needed):
            return
        member.started = self._starts[member.definition.name]()
        member.started_at = time.monotonic()
        self._change(member, last_status="RUNNING", pid=member.started.pid)
        if member.definition.health_check:
            member.probe = self._start_probe(
                member.definition, member.definition.health_check, lambda health: self._change(member, health=health)
            )

    def _is_met(self, dependency: _Member, condition: str) -> bool:
        if condition == "HEALTHY":
            return dependency.status.health == "HEALTHY"
        if condition == "START":
            return dependency.started is not None
        return dependency.has_ended and (condition == "COMPLETE" or dependency.status.exit_code == 0)

    def _failure(self, dependency: _Member, condition: str) -> str | None:
        """Returns why the condition can never be met; None if it can."""
        if dependency.has_ended:
            if dependency.started is None:
                return "cannot be resolved because the dependency will never start"
            is_failed = condition == "SUCCESS" and dependency.status.exit_code
            return "cannot be resolved because the dependency did not exit successfully" if is_failed else None
        timeout, is_up = dependency.definition.start_timeout_seconds, dependency.started is not None
        is_late = is_up and timeout is not None and time.monotonic() > dependency.started_at + timeout
        return "has timed out" if is_late and not self._is_met(dependency, condition) else None

    def _stop_member(self, member: _Member) -> None:
        """Sends SIGTERM once no container depends on this one, and SIGKILL after its stop timeout."""
        if not member.is_running:
            return
        name, now = member.definition.name, time.monotonic()
        if member.stops_until is None:
            others = [other for other in self._members.values() if other.is_running]
            if not any(name == needed for other in others for needed, _ in other.definition.depends_on):
                self[name].terminate()
                member.stops_until = now + member.definition.stop_timeout_seconds
        elif now >= min(member.stops_until, self._latest_end):
            self._end(member, self[name].kill())

    def _end(self, member: _Member, code: int) -> None:
        if member.probe is not None:
            member.probe.stop()
        self._change(member, last_status="STOPPED", exit_code=code, reason=self[member.definition.name].reason)

    def _change(self, member: _Member, **changes: Any) -> None:
        with self._changing:
            member.status = replace(member.status, **changes)
            self._on_change(tuple(one.status for one in self._members.values()))

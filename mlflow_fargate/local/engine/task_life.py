"""Runs one task from PROVISIONING to STOPPED in a separate thread, with the ECS agent's steps.

    pull the image · fetch the secrets · open the log stream · start · check its health … drain · SIGTERM · SIGKILL

It changes only its own task and reports each change to `TaskEvents`; rolling_decisions and shift decide what that means
for the service.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from botocore.exceptions import ClientError

from mlflow_fargate.local.container.launch import ContainerSpec, TaskFailedToStart
from mlflow_fargate.local.container.runner import StartedTask, TaskRunner
from mlflow_fargate.local.engine.health import HealthProbe
from mlflow_fargate.local.engine.state import DRAINING, REGISTERING, TargetHealth, Task
from mlflow_fargate.local.engine.task_logs import LogGroupMissing, LogShipper
from mlflow_fargate.local.moto_client import MotoClient, SecretMissing, TargetGroupSettings
from mlflow_fargate.local.task_definition import TaskDefinition

_POLL_SECONDS = 0.2
_HURRIED_STOP_SECONDS = 2.0
_NO_SECRETS = "unable to pull secrets or registry auth"

logger = logging.getLogger(__name__)


class TaskEvents(Protocol):
    """Receives a task's changes."""

    def task_changed(self, task_arn: str, **changes: Any) -> None:
        """Called when fields of the task have new values."""

    def target_changed(self, task_arn: str, target_group_arn: str, health: TargetHealth) -> None:
        """Called when the task's health in a target group changed."""


class TaskLife:
    """Starts with `start()`; `stop()` requests the end without waiting for it."""

    def __init__(
        self,
        task: Task,
        definition: TaskDefinition,
        *,
        target_group_arns: Sequence[str],
        aws: MotoClient,
        runner: TaskRunner,
        logs: LogShipper,
        events: TaskEvents,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._task = task
        self._definition = definition
        self._target_group_arns = target_group_arns
        self._aws = aws
        self._runner = runner
        self._logs = logs
        self._events = events
        self._clock = clock
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._was_healthy = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"task-{task.id[:8]}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, hurry: bool = False) -> None:
        """Ends the task: with draining and its stop timeout, or within seconds if `hurry`."""
        if hurry:
            self._hurry.set()
        self._stopping.set()

    def join(self, timeout_seconds: float) -> None:
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        try:
            process = self._begin()
        except TaskFailedToStart as error:
            self._ended(stopped_reason=str(error), stop_code="TaskFailedToStart")
            return
        except Exception as error:
            # A bug here, not in the image. A task that stayed PENDING would keep the deployment waiting for nothing.
            logger.exception("task %s could not be started", self._task.id)
            self._ended(stopped_reason=f"InternalError: {error!r}", stop_code="TaskFailedToStart")
            return
        if process is None:
            self._ended()
            return
        probes = self._check_health(process)
        code = self._wait_for_end(process)
        by_itself = code is not None
        code = self._drain_and_stop(process, probes) if code is None else code
        for probe in probes:
            probe.stop()
        reason = {"stopped_reason": "Essential container in task exited", "stop_code": "EssentialContainerExited"}
        self._ended(exit_code=code, container_reason=process.reason, **(reason if by_itself else {}))

    def _begin(self) -> StartedTask | None:
        """Starts the task and returns it; None if it was stopped first. TaskFailedToStart has the stoppedReason."""
        container = self._definition.main
        self._changed(last_status="PENDING", pull_started_at=self._clock())
        image = self._runner.pull(container.image)
        self._changed(pull_stopped_at=self._clock(), image_digest=image.digest)
        try:
            secrets = {name: self._aws.secret(value_from) for name, value_from in container.secrets}
            stream = self._logs.open(container.logs, container.name, self._task.id)
        except SecretMissing as error:
            raise TaskFailedToStart(f"ResourceInitializationError: {_NO_SECRETS}: {error}") from error
        except LogGroupMissing as error:
            raise TaskFailedToStart(f"ResourceInitializationError: {error}") from error
        if self._stopping.is_set():
            return None
        self._changed(last_status="ACTIVATING")
        spec = ContainerSpec(
            self._task.id,
            container,
            image,
            secrets,
            has_role=self._definition.has_role,
            cpu_units=self._definition.cpu_units,
            memory_mib=self._definition.memory_mib,
        )
        process = self._runner.start(spec, stream.write)
        self._changed(last_status="RUNNING", started_at=self._clock(), pid=process.pid, host_port=process.host_port)
        return process

    def _check_health(self, process: StartedTask) -> list[HealthProbe]:
        probes = []
        for arn in self._target_group_arns:
            group = self._target_group(arn)
            if group is not None:
                probes.append(HealthProbe(process.host_port, group, self._target_listener(arn)))
        return probes

    def _target_listener(self, arn: str) -> Callable[[TargetHealth], None]:
        def listen(health: TargetHealth) -> None:
            if health.state == "healthy":
                self._was_healthy.set()
            self._events.target_changed(self._task.arn, arn, health)

        return listen

    def _target_group(self, arn: str) -> TargetGroupSettings | None:
        try:
            return self._aws.target_group(arn)
        except ClientError:
            # Deleted while in use: the target never becomes healthy, as on AWS.
            return None

    def _wait_for_end(self, process: StartedTask) -> int | None:
        while not self._stopping.is_set():
            code = process.wait(_POLL_SECONDS)
            if code is not None:
                return code
        return None

    def _drain_and_stop(self, process: StartedTask, probes: list[HealthProbe]) -> int:
        self._changed(last_status="DEACTIVATING", stopping_at=self._clock())
        for probe in probes:
            probe.stop()
        code = self._drain(process)
        if code is not None:
            return code
        self._changed(last_status="STOPPING")
        process.terminate()
        until = time.monotonic() + self._definition.main.stop_timeout_seconds
        while time.monotonic() < until:
            code = process.wait(_POLL_SECONDS)
            if code is not None:
                return code
            if self._hurry.is_set():
                until = min(until, time.monotonic() + _HURRIED_STOP_SECONDS)
                self._hurry.clear()
        return process.kill()

    def _drain(self, process: StartedTask) -> int | None:
        """Waits until target groups have drained requests; returns the exit code if the process ends earlier.

        A target that was never healthy got no requests and is not drained.
        """
        if not self._was_healthy.is_set():
            return None
        delays = [
            group.deregistration_delay_seconds for arn in self._target_group_arns if (group := self._target_group(arn))
        ]
        for arn in self._target_group_arns:
            self._events.target_changed(self._task.arn, arn, DRAINING)
        until = time.monotonic() + max(delays, default=0.0)
        while time.monotonic() < until and not self._hurry.is_set():
            code = process.wait(min(_POLL_SECONDS, max(0.01, until - time.monotonic())))
            if code is not None:
                return code
        return None

    def _changed(self, **changes: Any) -> None:
        self._events.task_changed(self._task.arn, **changes)

    def _ended(self, **changes: Any) -> None:
        # The log first: clients read it as soon as the task is STOPPED.
        self._logs.close(self._task.id)
        self._changed(last_status="STOPPED", desired_status="STOPPED", stopped_at=self._clock(), targets=(), **changes)


def initial_targets(target_group_arns: Sequence[str]) -> tuple[tuple[str, TargetHealth], ...]:
    """Returns the target health of a task that has just been placed."""
    return tuple((arn, REGISTERING) for arn in target_group_arns)

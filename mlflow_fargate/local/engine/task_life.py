"""Runs one task from PROVISIONING to STOPPED in a separate thread, with the ECS agent's steps.

    pull the images · fetch secrets · open log streams · start containers · check health … drain · SIGTERM · SIGKILL

It changes only its own task and reports each change to `TaskEvents`; rolling_decisions and shift decide what that means
for the service.
"""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from botocore.exceptions import ClientError

from mlflow_fargate.local.container.image_store import PulledImage
from mlflow_fargate.local.container.launch import ContainerSpec, TaskFailedToStart
from mlflow_fargate.local.container.runner import free_port
from mlflow_fargate.local.container.task_runner import StartedTask, TaskRunner
from mlflow_fargate.local.engine.container_health import ContainerProbe
from mlflow_fargate.local.engine.health import HealthProbe
from mlflow_fargate.local.engine.state import DRAINING, REGISTERING, ContainerStatus, TargetHealth, Task
from mlflow_fargate.local.engine.task_containers import TaskContainers
from mlflow_fargate.local.engine.task_logs import LogGroupMissing, LogShipper
from mlflow_fargate.local.moto_client import MotoClient, SecretMissing, TargetGroupSettings
from mlflow_fargate.local.task_definition import Container, HealthCheck, TaskDefinition

_POLL_SECONDS = 0.2
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
        self._has_started = False
        self._probes: list[HealthProbe] = []
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
        ended: dict[str, str] = {}
        containers = None
        try:
            containers = self._prepare()
            if containers is not None:
                ended = self._supervise(containers)
        except TaskFailedToStart as error:
            ended = {"stopped_reason": str(error), "stop_code": "TaskFailedToStart"}
        except Exception as error:
            # A bug here, not in the image. A task that stayed PENDING would keep the deployment waiting for nothing.
            logger.exception("error in task %s", self._task.id)
            ended = {"stopped_reason": f"InternalError: {error!r}", "stop_code": "TaskFailedToStart"}
        finally:
            self._stop_probes()
            if containers is not None:
                containers.kill()
                self._runner.release(self._task.id)
            self._ended(**ended)

    def _prepare(self) -> TaskContainers | None:
        """Returns the task's containers, not started; None if it was stopped first."""
        definitions = {container.name: container for container in self._definition.containers}
        statuses = self._task.containers
        self._changed(last_status="PENDING", pull_started_at=self._clock())
        images = {status.name: self._runner.pull(status.image) for status in statuses}
        statuses = tuple(replace(status, image_digest=images[status.name].digest) for status in statuses)
        self._changed(pull_stopped_at=self._clock(), containers=statuses)
        starts = {}
        try:
            for status in statuses:
                container = definitions[status.name]
                secrets = {name: self._aws.secret(value_from) for name, value_from in container.secrets}
                stream = self._logs.open(container.logs, container.name, self._task.id)
                spec = self._spec(container, images[container.name], secrets)
                starts[container.name] = partial(self._runner.start, spec, stream.write)
        except SecretMissing as error:
            raise TaskFailedToStart(f"ResourceInitializationError: {_NO_SECRETS}: {error}") from error
        except LogGroupMissing as error:
            raise TaskFailedToStart(f"ResourceInitializationError: {error}") from error
        if self._stopping.is_set():
            return None
        self._changed(last_status="ACTIVATING")
        pairs = [(definitions[status.name], status) for status in statuses]
        return TaskContainers(pairs, starts, self._probe, lambda now: self._changed(containers=now))

    def _spec(self, container: Container, image: PulledImage, secrets: Mapping[str, str]) -> ContainerSpec:
        definition = self._definition
        return ContainerSpec(
            self._task.id,
            container,
            image,
            secrets,
            has_role=definition.has_role,
            cpu_units=definition.cpu_units,
            memory_mib=definition.memory_mib,
            shared_ports=definition.main.ports[:1] if len(self._task.containers) > 1 else None,
        )

    def _probe(self, container: Container, check: HealthCheck, on_change: Callable[[str], None]) -> ContainerProbe:
        words = shlex.join(check.command)
        spec = partial(self._runner.exec_spec, self._task.id, container.name, words, as_root=False)
        return ContainerProbe(check, spec, on_change)

    def _supervise(self, containers: TaskContainers) -> dict[str, str]:
        """Runs the containers until the task has ended; returns why it ended, if by itself."""
        while not self._stopping.is_set() and not containers.essential_ended:
            containers.step()
            if containers.have_started and not self._has_started:
                self._note_running(containers.get(self._definition.main.name))
            containers.wait(_POLL_SECONDS)
        reason = {}
        if containers.essential_ended:
            reason = {"stopped_reason": "Essential container in task exited", "stop_code": "EssentialContainerExited"}
        else:
            self._changed(last_status="DEACTIVATING", stopping_at=self._clock())
            self._stop_probes()
            self._drain(containers)
            self._changed(last_status="STOPPING")
        containers.stop()
        while not containers.have_ended:
            if self._hurry.is_set():
                containers.hurry()
            containers.step()
            containers.wait(_POLL_SECONDS)
        return reason

    def _note_running(self, main: StartedTask | None) -> None:
        """`main` is None if the task does not need it and it never starts: its target never gets healthy, as on AWS."""
        self._has_started = True
        pid, host_port = (main.pid, main.host_port) if main else (None, free_port())
        self._changed(last_status="RUNNING", started_at=self._clock(), pid=pid, host_port=host_port)
        for arn in self._target_group_arns:
            group = self._target_group(arn)
            if group is not None:
                self._probes.append(HealthProbe(host_port, group, self._target_listener(arn)))

    def _stop_probes(self) -> None:
        for probe in self._probes:
            probe.stop()

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

    def _drain(self, containers: TaskContainers) -> None:
        """Waits until target groups have drained requests, or the task ends.

        A target that was never healthy got no requests and is not drained.
        """
        if not self._was_healthy.is_set():
            return
        delays = [
            group.deregistration_delay_seconds for arn in self._target_group_arns if (group := self._target_group(arn))
        ]
        for arn in self._target_group_arns:
            self._events.target_changed(self._task.arn, arn, DRAINING)
        until = time.monotonic() + max(delays, default=0.0)
        while time.monotonic() < until and not self._hurry.is_set() and not containers.essential_ended:
            containers.wait(min(_POLL_SECONDS, max(0.01, until - time.monotonic())))

    def _changed(self, **changes: Any) -> None:
        self._events.task_changed(self._task.arn, **changes)

    def _ended(self, **changes: Any) -> None:
        # The log first: clients read it as soon as the task is STOPPED.
        self._logs.close(self._task.id)
        self._changed(last_status="STOPPED", desired_status="STOPPED", stopped_at=self._clock(), targets=(), **changes)


def initial_targets(target_group_arns: Sequence[str]) -> tuple[tuple[str, TargetHealth], ...]:
    """Returns the target health of a task that has just been placed."""
    return tuple((arn, REGISTERING) for arn in target_group_arns)


def initial_statuses(definition: TaskDefinition, *, with_all: bool) -> tuple[ContainerStatus, ...]:
    """Returns the containers of a task that has just been placed: all of them, or only the main one."""
    return tuple(
        ContainerStatus(
            container.name,
            container.image,
            is_essential=container.is_essential,
            has_check=container.health_check is not None,
        )
        for container in (definition.containers if with_all else (definition.main,))
    )

"""The current services and tasks of the local ECS; its lock is held only during a change, never during a call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from mlflow_fargate.local.engine.state import Service, TargetHealth, Task

# ECS shows stopped tasks for at least an hour.
STOPPED_TASK_SECONDS = 3600.0


class EcsStore:
    """Frozen values behind a lock; every change sets the event `changed`."""

    def __init__(self) -> None:
        self.changed = threading.Event()
        self._lock = threading.Lock()
        self._services: dict[str, Service] = {}
        self._tasks: dict[str, Task] = {}

    def services(self) -> list[Service]:
        with self._lock:
            return list(self._services.values())

    def service(self, arn: str) -> Service | None:
        with self._lock:
            return self._services.get(arn)

    def put_service(self, service: Service) -> bool:
        """Adds the service; returns False if one with this name is not INACTIVE yet."""
        with self._lock:
            present = self._services.get(service.arn)
            if present is not None and present.status != "INACTIVE":
                return False
            self._services[service.arn] = service
        self.changed.set()
        return True

    def change_service(self, arn: str, change: Callable[[Service], Service]) -> Service:
        """Applies `change`, which is pure and fast, and returns the new service."""
        with self._lock:
            service = self._services[arn] = change(self._services[arn])
        self.changed.set()
        return service

    def tasks(self, service_arn: str | None = None) -> list[Task]:
        """Oldest first."""
        with self._lock:
            return [task for task in self._tasks.values() if service_arn in (None, task.service_arn)]

    def task(self, arn: str) -> Task | None:
        with self._lock:
            return self._tasks.get(arn)

    def put_task(self, task: Task) -> None:
        with self._lock:
            self._tasks[task.arn] = task
        self.changed.set()

    def change_task(self, arn: str, change: Callable[[Task], Task]) -> tuple[Task, Task]:
        """Applies `change`; returns the task before and after it."""
        with self._lock:
            before = self._tasks[arn]
            after = self._tasks[arn] = change(before)
        self.changed.set()
        return before, after

    def set_target(self, arn: str, target_group_arn: str, health: TargetHealth) -> tuple[Task, Task]:
        """Sets the task's health in one target group; returns the task before and after."""

        def change(task: Task) -> Task:
            return replace(
                task,
                targets=tuple(
                    (tuple_arn, health if tuple_arn == target_group_arn else known) for tuple_arn, known in task.targets
                ),
            )

        return self.change_task(arn, change)

    def forget_old_tasks(self, now: float) -> None:
        with self._lock:
            self._tasks = {
                arn: task
                for arn, task in self._tasks.items()
                if task.stopped_at is None or now - task.stopped_at < STOPPED_TASK_SECONDS
            }

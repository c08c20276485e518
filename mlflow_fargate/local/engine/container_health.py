"""Health checks of containers: a command in the container, repeated, with Docker's rules.

`judge` is the rule (pure); `ContainerProbe` repeats the command in a separate thread.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from mlflow_fargate.local.container.launch import ExecSpec
from mlflow_fargate.local.task_definition import HealthCheck


@dataclass(frozen=True)
class ContainerHistory:
    health: str = "UNKNOWN"
    failed_in_a_row: int = 0


def judge(history: ContainerHistory, check: HealthCheck, *, passed: bool, age_seconds: float) -> ContainerHistory:
    """Returns the history with the result of a check that began `age_seconds` after the container's start.

    Failures in the start period do not count, unless an earlier check passed.
    Source: HEALTHCHECK in the Dockerfile reference, to which ECS's parameters map.
    """
    if passed:
        return ContainerHistory("HEALTHY")
    if history.health == "UNKNOWN" and age_seconds < check.start_period_seconds:
        return history
    failed = history.failed_in_a_row + 1
    return ContainerHistory("UNHEALTHY" if failed >= check.retries else history.health, failed)


class ContainerProbe:
    """Checks a container that has just started until stopped; calls `on_change` with HEALTHY or UNHEALTHY.

    `spec` returns how to run the command; None once the container has ended.
    """

    def __init__(
        self, check: HealthCheck, spec: Callable[[], ExecSpec | None], on_change: Callable[[str], None]
    ) -> None:
        self._check = check
        self._spec = spec
        self._on_change = on_change
        self._stopping = threading.Event()
        threading.Thread(target=self._run, name="container-health", daemon=True).start()

    def stop(self) -> None:
        """Ends the checks; does not wait for one in progress, and ignores its result."""
        self._stopping.set()

    def _run(self) -> None:
        history, begun = ContainerHistory(), time.monotonic()
        while not self._stopping.wait(self._check.interval_seconds):
            age_seconds = time.monotonic() - begun
            passed = self._passes()
            if self._stopping.is_set():
                return
            before, history = history, judge(history, self._check, passed=passed, age_seconds=age_seconds)
            if history.health != before.health:
                self._on_change(history.health)

    def _passes(self) -> bool:
        spec = self._spec()
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            return spec is not None and not subprocess.call(
                spec.command,
                env=dict(spec.environment),
                cwd=spec.working_directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=self._check.timeout_seconds,
            )
        return False

"""Health checks like an ALB's: one HTTP GET per interval, with its thresholds and reasons.

`judge` is the rule (pure); `HealthProbe` checks a target repeatedly in a separate thread.
"""

from __future__ import annotations

import http.client
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from mlflow_fargate.local.engine.state import HEALTHY, TargetHealth
from mlflow_fargate.local.moto_client import TargetGroupSettings

logger = logging.getLogger(__name__)

_EAGER_SECONDS = 0.5
INITIAL = TargetHealth("initial", "Elb.InitialHealthChecking", "Initial health checks in progress")


@dataclass(frozen=True)
class CheckResult:
    """The result of a health check: a status, or why there was none."""

    status: int | None = None
    timed_out: bool = False


@dataclass(frozen=True)
class CheckHistory:
    """The check results that an ALB keeps for a target."""

    health: TargetHealth = INITIAL
    passed_in_a_row: int = 0
    failed_in_a_row: int = 0


def judge(history: CheckHistory, result: CheckResult, group: TargetGroupSettings) -> CheckHistory:
    """Returns the history with one more check.

    A new target needs only one passing check; the healthy threshold applies to targets that were unhealthy.
    Source: "Health checks for Application Load Balancer target groups" in ELB's guide.
    """
    if result.status is not None and matches(group.matcher, result.status):
        passed = history.passed_in_a_row + 1
        is_enough = history.health.state != "unhealthy" or passed >= group.healthy_threshold
        return CheckHistory(HEALTHY if is_enough else history.health, passed, 0)
    failed = history.failed_in_a_row + 1
    is_enough = failed >= group.unhealthy_threshold
    return CheckHistory(_unhealthy(result) if is_enough else history.health, 0, failed)


def matches(matcher: str, status: int) -> bool:
    """Returns whether `status` is among a matcher's codes: '200', '200,202' or '200-299'."""
    for part in matcher.split(","):
        first, _, last = part.strip().partition("-")
        if int(first) <= status <= int(last or first):
            return True
    return False


def check(host: str, port: int, group: TargetGroupSettings) -> CheckResult:
    """Sends the target one health check and returns its result."""
    connection = http.client.HTTPConnection(host, port, timeout=group.timeout_seconds)
    try:
        connection.request("GET", group.health_path, headers={"User-Agent": "ELB-HealthChecker/2.0"})
        return CheckResult(status=connection.getresponse().status)
    except TimeoutError:
        return CheckResult(timed_out=True)
    except (OSError, http.client.HTTPException):
        return CheckResult()
    finally:
        connection.close()


class HealthProbe:
    """Checks one target until stopped; calls `on_change` with every new state or reason."""

    def __init__(self, port: int, group: TargetGroupSettings, on_change: Callable[[TargetHealth], None]) -> None:
        self._port = port
        self._group = group
        self._on_change = on_change
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"health-{port}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the checks; does not wait for one in progress, and ignores its result."""
        self._stopping.set()

    def _run(self) -> None:
        history = CheckHistory()
        self._on_change(history.health)
        while not self._stopping.is_set():
            result = check("127.0.0.1", self._port, self._group)
            if self._stopping.is_set():
                return
            before, history = history, judge(history, result, self._group)
            if history.health != before.health:
                self._on_change(history.health)
            self._wait_for_next(history)

    def _wait_for_next(self, history: CheckHistory) -> None:
        """Waits for an interval, or less if a new target passes earlier.

        A model that is ready should not have to wait four seconds: a new target is also checked in between, and only a
        passing check counts.
        """
        ends = time.monotonic() + self._group.interval_seconds
        while (left := ends - time.monotonic()) > 0 and not self._stopping.wait(min(left, _EAGER_SECONDS)):
            if history.health == INITIAL and left > _EAGER_SECONDS:
                seen = check("127.0.0.1", self._port, self._group)
                if seen.status is not None and matches(self._group.matcher, seen.status):
                    return


def _unhealthy(result: CheckResult) -> TargetHealth:
    if result.timed_out:
        return TargetHealth("unhealthy", "Target.Timeout", "Request timed out")
    if result.status is None:
        return TargetHealth("unhealthy", "Target.FailedHealthChecks", "Health checks failed")
    said = f"Health checks failed with these codes: [{result.status}]"
    return TargetHealth("unhealthy", "Target.ResponseCodeMismatch", said)

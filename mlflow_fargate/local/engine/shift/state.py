"""Types of deployments that shift traffic (BLUE_GREEN, CANARY, LINEAR): their rules, and the progress of one.

Blue is the previous revision, green the one that a service deployment rolls out.
Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/deployment-type-blue-green.html and related pages
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STAGES = (
    "RECONCILE_SERVICE",
    "PRE_SCALE_UP",
    "SCALE_UP",
    "POST_SCALE_UP",
    "TEST_TRAFFIC_SHIFT",
    "POST_TEST_TRAFFIC_SHIFT",
    "PRE_PRODUCTION_TRAFFIC_SHIFT",
    "PRODUCTION_TRAFFIC_SHIFT",
    "POST_PRODUCTION_TRAFFIC_SHIFT",
    "BAKE_TIME",
    "CLEAN_UP",
)
# Stages in which ECS itself acts cannot be paused (API reference, DeploymentLifecycleHook).
PAUSE_STAGES = frozenset(STAGES) - {
    "SCALE_UP",
    "TEST_TRAFFIC_SHIFT",
    "PRODUCTION_TRAFFIC_SHIFT",
    "BAKE_TIME",
    "CLEAN_UP",
}


@dataclass(frozen=True)
class ShiftRules:
    """The traffic-shifting part of a `deploymentConfiguration`, with AWS's defaults filled in."""

    strategy: str = "ROLLING"
    shares: tuple[float, ...] = (100.0,)  # percent of the production traffic after each step
    step_bake_minutes: float = 0.0  # after each step but the last
    bake_minutes: float = 0.0
    pauses: tuple[tuple[str, float, str], ...] = ()  # stage, minutes, and timeout action

    @property
    def shifts(self) -> bool:
        return self.strategy != "ROLLING"

    @classmethod
    def from_configuration(cls, configuration: Mapping[str, Any]) -> ShiftRules:
        strategy = configuration.get("strategy") or "ROLLING"
        shares, step_bake = _steps(strategy, configuration)
        return cls(
            strategy=strategy,
            shares=shares,
            step_bake_minutes=step_bake,
            bake_minutes=float(configuration.get("bakeTimeInMinutes") or 0),
            pauses=tuple(_pauses(configuration)),
        )


@dataclass(frozen=True)
class Hook:
    """A PAUSE hook that a service deployment reached."""

    id: str
    stage: str
    status: str  # AWAITING_ACTION, SUCCEEDED, FAILED or TIMED_OUT
    expires_at: float
    timeout_action: str  # ROLLBACK or CONTINUE


@dataclass(frozen=True)
class Shift:
    """How far a service deployment has shifted the traffic: its stage, and green's shares in percent."""

    blue_id: str | None  # a rollout; None: there is nothing to shift from
    green_id: str
    stage: str
    since: float  # when the stage, or the last step within it, began
    production_percent: float = 0.0
    test_percent: float = 0.0
    is_share_moved: bool = False  # of the current step
    hooks: tuple[Hook, ...] = ()
    paused_stages: tuple[str, ...] = ()  # stages whose pause has started since they were entered

    @property
    def waiting_hook(self) -> Hook | None:
        return next((hook for hook in self.hooks if hook.status == "AWAITING_ACTION"), None)


def _steps(strategy: str, configuration: Mapping[str, Any]) -> tuple[tuple[float, ...], float]:
    if strategy == "CANARY":
        canary = configuration.get("canaryConfiguration") or {}
        share = float(canary.get("canaryPercent", 5.0))
        shares = (share, 100.0) if share < 100 else (100.0,)
        return shares, float(canary.get("canaryBakeTimeInMinutes", 10))
    if strategy == "LINEAR":
        linear = configuration.get("linearConfiguration") or {}
        step = float(linear.get("stepPercent", 10.0))
        # 33.4 takes three steps: rounding must not add a tiny fourth one.
        count = math.ceil(round(100 / step, 6))
        steps = [round(step * number, 1) for number in range(1, count)]
        return (*steps, 100.0), float(linear.get("stepBakeTimeInMinutes", 6))
    return (100.0,), 0.0


def _pauses(configuration: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    pauses = []
    for hook in configuration.get("lifecycleHooks") or ():
        timeout = hook.get("timeoutConfiguration") or {}
        minutes, action = float(timeout.get("timeoutInMinutes", 1440)), timeout.get("action", "ROLLBACK")
        pauses += [(stage, minutes, action) for stage in hook.get("lifecycleStages") or ()]
    return pauses

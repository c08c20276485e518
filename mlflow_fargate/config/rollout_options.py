"""How a new version replaces the old one: task by task, or by shifting traffic."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator
from typing_extensions import Self

from mlflow_fargate.config.option import OptionGroup, option

_MAPS_TO = "ECS service: deploymentConfiguration"
_SHIFTING = frozenset({"blue_green", "canary", "linear"})
# The strategies that each option applies to.
_STRATEGIES_OF = {
    "bake_time_minutes": _SHIFTING,
    "canary_percent": frozenset({"canary"}),
    "canary_bake_time_minutes": frozenset({"canary"}),
    "linear_step_percent": frozenset({"linear"}),
    "linear_step_bake_time_minutes": frozenset({"linear"}),
    "test_green": _SHIFTING,
    "test_timeout_minutes": _SHIFTING,
}


def _check_tenths(percent: float) -> float:
    if round(percent, 1) != percent:
        raise ValueError("ECS accepts at most one decimal place")
    return percent


Percent = Annotated[float, AfterValidator(_check_tenths)]


class RolloutOptions(OptionGroup):
    """Options of the deployment strategy. They are part of the service, so changing one does not start a rollout."""

    strategy: Literal["rolling", "blue_green", "canary", "linear"] = option(
        "rolling",
        "how new tasks replace old ones: rolling replaces them gradually; the others start all new tasks first and "
        "then shift the traffic: all at once (blue_green), a share first (canary), or in equal steps (linear)",
        maps_to=f"{_MAPS_TO}.strategy",
        examples=["blue_green"],
    )
    bake_time_minutes: int = option(
        5,
        "how long the old tasks keep running after all traffic has shifted, ready for a rollback",
        unit="minutes",
        ge=0,
        le=1440,
        maps_to=f"{_MAPS_TO}.bakeTimeInMinutes",
        examples=["15"],
    )
    canary_percent: Percent = option(
        5.0,
        "with strategy=canary: share of the traffic that is sent to the new tasks first",
        unit="percent",
        ge=0.1,
        le=100,
        maps_to=f"{_MAPS_TO}.canaryConfiguration.canaryPercent",
        examples=["10"],
    )
    canary_bake_time_minutes: int = option(
        10,
        "with strategy=canary: how long to keep canary_percent before shifting the rest",
        unit="minutes",
        ge=0,
        le=1440,
        maps_to=f"{_MAPS_TO}.canaryConfiguration.canaryBakeTimeInMinutes",
        examples=["30"],
    )
    linear_step_percent: Percent = option(
        10.0,
        "with strategy=linear: share of the traffic that shifts with each step",
        unit="percent",
        ge=3,
        le=100,
        maps_to=f"{_MAPS_TO}.linearConfiguration.stepPercent",
        examples=["25"],
    )
    linear_step_bake_time_minutes: int = option(
        6,
        "with strategy=linear: how long to wait between steps",
        unit="minutes",
        ge=0,
        le=1440,
        maps_to=f"{_MAPS_TO}.linearConfiguration.stepBakeTimeInMinutes",
        examples=["2"],
    )
    test_green: bool = option(
        True,
        "before shifting traffic, send the model's input example to the new tasks; roll back if the prediction fails",
        maps_to=f"{_MAPS_TO}.lifecycleHooks, PAUSE",
    )
    test_timeout_minutes: int = option(
        30,
        "how long ECS waits for the result of test_green before it rolls back to the old tasks",
        unit="minutes",
        ge=1,
        le=20160,
        maps_to=f"{_MAPS_TO}.lifecycleHooks.timeoutConfiguration",
        examples=["120"],
    )

    @property
    def shifts_traffic(self) -> bool:
        """True if new tasks run next to the old ones, in a second target group, until traffic has shifted."""
        return self.strategy != "rolling"

    @property
    def shift_minutes(self) -> float:
        """How long ECS waits during a shift: between steps, and the bake time."""
        if self.strategy == "canary":
            return float(self.canary_bake_time_minutes + self.bake_time_minutes)
        if self.strategy == "linear":
            steps = -(-1000 // round(self.linear_step_percent * 10))
            return float((steps - 1) * self.linear_step_bake_time_minutes + self.bake_time_minutes)
        return float(self.bake_time_minutes) if self.shifts_traffic else 0.0

    @property
    def strategy_settings(self) -> dict[str, str | int | float | bool]:
        """The strategy with the options that apply to it, by their `-C` keys."""
        keys = [key for key, strategies in _STRATEGIES_OF.items() if self.strategy in strategies]
        if not self.test_green and self.shifts_traffic:
            keys.remove("test_timeout_minutes")
        return {"strategy": self.strategy, **{key: getattr(self, key) for key in keys}}

    @model_validator(mode="after")
    def _check_strategy(self) -> Self:
        for key in sorted(self.model_fields_set & _STRATEGIES_OF.keys()):
            if self.strategy not in _STRATEGIES_OF[key]:
                raise ValueError(f"{key} requires strategy={' or '.join(sorted(_STRATEGIES_OF[key]))}")
        return self


def settings_for(strategy: object, kept: dict[str, object]) -> dict[str, object]:
    """Returns `kept` without the options that do not apply to `strategy`."""
    return {key: value for key, value in kept.items() if strategy in _STRATEGIES_OF.get(key, {strategy})}

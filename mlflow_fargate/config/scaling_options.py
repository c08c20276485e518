"""Autoscaling: the number of tasks between two bounds, by load and by schedule."""

from __future__ import annotations

import re
from typing import NamedTuple

from pydantic import field_validator, model_validator
from typing_extensions import Self

from mlflow_fargate.config.option import OptionGroup, Table, option

_MAPS_TO = "Application Auto Scaling"
_ENTRY = re.compile(r"(?P<when>(?:cron|rate|at)\([^()]+\))\s+(?:(?P<normal>normal)|(?P<low>\d+)(?:-(?P<high>\d+))?)")
_ENTRY_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DEFAULT_CPU_PERCENT = 60


class ScheduledCounts(NamedTuple):
    """The bounds from the times of `when` on: the fewest and the most tasks."""

    when: str  # cron(…), rate(…) or at(…), in Application Auto Scaling's grammar
    low: int
    high: int


class ScalingOptions(OptionGroup):
    """Options of autoscaling; without `max_count` it is off, and `desired_count` is the number of tasks."""

    min_count: int = option(
        1,
        "minimum number of tasks with autoscaling",
        unit="tasks",
        ge=0,
        le=5000,
        maps_to=f"{_MAPS_TO}: MinCapacity",
        examples=["2"],
    )
    max_count: int | None = option(
        None,
        "maximum number of tasks; setting it turns on autoscaling",
        unit="tasks",
        ge=1,
        le=5000,
        maps_to=f"{_MAPS_TO}: MaxCapacity",
        examples=["4"],
    )
    target_cpu_percent: float | None = option(
        None,
        f"target CPU utilization of the tasks; {_DEFAULT_CPU_PERCENT} if autoscaling is on and no target is set",
        unit="percent",
        ge=1,
        le=100,
        maps_to=f"{_MAPS_TO}: ECSServiceAverageCPUUtilization",
        examples=["70"],
    )
    target_memory_percent: float | None = option(
        None,
        "target memory utilization of the tasks",
        unit="percent",
        ge=1,
        le=100,
        maps_to=f"{_MAPS_TO}: ECSServiceAverageMemoryUtilization",
        examples=["80"],
    )
    target_requests_per_minute: float | None = option(
        None,
        "target number of requests per task per minute",
        unit="requests",
        ge=1,
        maps_to=f"{_MAPS_TO}: ALBRequestCountPerTarget",
        examples=["600"],
    )
    scale_out_cooldown_seconds: int = option(
        60,
        "cooldown after scaling out",
        unit="seconds",
        ge=0,
        maps_to=f"{_MAPS_TO}: ScaleOutCooldown",
        examples=["30"],
    )
    scale_in_cooldown_seconds: int = option(
        300,
        "cooldown after scaling in",
        unit="seconds",
        ge=0,
        maps_to=f"{_MAPS_TO}: ScaleInCooldown",
        examples=["600"],
    )
    schedule: Table = option(
        dict,
        "scheduled changes to the number of tasks: each key is a name of your choice; its value is `WHEN COUNT`, `WHEN "
        "MIN-MAX` or `WHEN normal` (min_count to max_count), where WHEN is cron(…), rate(…) or at(…)",
        maps_to=f"{_MAPS_TO}: scheduled actions",
        examples=['schedule.night="cron(0 20 * * ? *) 0" and schedule.morning="cron(0 7 ? * MON-FRI *) normal"'],
        allowed="names of 1 to 64 letters, digits, - and _",
    )
    schedule_timezone: str = option(
        "UTC",
        "time zone of the schedule",
        maps_to=f"{_MAPS_TO}: Timezone",
        examples=["Europe/Berlin"],
        allowed="a name from the tz database",
    )

    @property
    def is_scaled(self) -> bool:
        """True if Application Auto Scaling sets the number of tasks."""
        return self.max_count is not None

    @property
    def scaling_targets(self) -> dict[str, float]:
        """The targets, by the name of AWS's metric."""
        named = {
            "ECSServiceAverageCPUUtilization": self.target_cpu_percent,
            "ECSServiceAverageMemoryUtilization": self.target_memory_percent,
            "ALBRequestCountPerTarget": self.target_requests_per_minute,
        }
        targets = {metric: value for metric, value in named.items() if value is not None}
        return targets or {"ECSServiceAverageCPUUtilization": float(_DEFAULT_CPU_PERCENT)}

    @property
    def scheduled_counts(self) -> dict[str, ScheduledCounts]:
        """The schedule's entries by name, with numbers for `normal`."""
        return {name: self._read_entry(name, text) for name, text in self.schedule.items()}

    @field_validator("schedule_timezone")
    @classmethod
    def _check_timezone(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", name):
            raise ValueError("must be a name from the tz database, such as Europe/Berlin")
        return name

    @model_validator(mode="after")
    def _check_scaling(self) -> Self:
        if self.max_count is None:
            named = sorted(self.model_fields_set & (set(ScalingOptions.model_fields) - {"max_count"}))
            if named:
                raise ValueError(f"{named[0]} only applies to autoscaling; set max_count")
            return self
        if self.min_count > self.max_count:
            raise ValueError(f"min_count={self.min_count} is greater than max_count={self.max_count}")
        _ = self.scheduled_counts  # raises where an entry cannot be read
        return self

    def _read_entry(self, name: str, text: str) -> ScheduledCounts:
        found = _ENTRY.fullmatch(text.strip())
        if not _ENTRY_NAME.fullmatch(name):
            raise ValueError(f"schedule: '{name}' is not a valid entry name (letters, digits, '-' and '_')")
        if found is None:
            raise ValueError(
                f"schedule.{name}={text!r} must be 'WHEN COUNT', such as 'cron(0 20 * * ? *) 0'; "
                "WHEN is cron(…), rate(…) or at(…)"
            )
        if found["normal"]:
            return ScheduledCounts(found["when"], self.min_count, self.max_count or 0)
        low, high = int(found["low"]), int(found["high"] or found["low"])
        if low > high:
            raise ValueError(f"schedule.{name}: {low} is greater than {high}")
        return ScheduledCounts(found["when"], low, high)

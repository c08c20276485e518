"""How many tasks run when: between two bounds by how busy they are, and by the clock."""

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
    """From the moments of `when` on, the fewest and the most tasks."""

    when: str  # cron(…), rate(…) or at(…), in Application Auto Scaling's grammar
    low: int
    high: int


class ScalingOptions(OptionGroup):
    """Options of autoscaling; without `max_count` there is none, and `desired_count` says how many tasks run."""

    min_count: int = option(
        1,
        "the fewest tasks that autoscaling keeps",
        unit="tasks",
        ge=0,
        le=5000,
        maps_to=f"{_MAPS_TO}: MinCapacity",
        examples=["2"],
    )
    max_count: int | None = option(
        None,
        "the most tasks that autoscaling starts; by default there is no autoscaling",
        unit="tasks",
        ge=1,
        le=5000,
        maps_to=f"{_MAPS_TO}: MaxCapacity",
        examples=["4"],
    )
    target_cpu_percent: float | None = option(
        None,
        f"how busy the tasks' CPUs shall be; {_DEFAULT_CPU_PERCENT} where no target is named",
        unit="percent",
        ge=1,
        le=100,
        maps_to=f"{_MAPS_TO}: ECSServiceAverageCPUUtilization",
        examples=["70"],
    )
    target_memory_percent: float | None = option(
        None,
        "how full the tasks' memory shall be",
        unit="percent",
        ge=1,
        le=100,
        maps_to=f"{_MAPS_TO}: ECSServiceAverageMemoryUtilization",
        examples=["80"],
    )
    target_requests_per_minute: float | None = option(
        None,
        "how many requests a minute one task shall get",
        unit="requests",
        ge=1,
        maps_to=f"{_MAPS_TO}: ALBRequestCountPerTarget",
        examples=["600"],
    )
    scale_out_cooldown_seconds: int = option(
        60,
        "rest after tasks were added",
        unit="seconds",
        ge=0,
        maps_to=f"{_MAPS_TO}: ScaleOutCooldown",
        examples=["30"],
    )
    scale_in_cooldown_seconds: int = option(
        300,
        "rest after tasks were taken away",
        unit="seconds",
        ge=0,
        maps_to=f"{_MAPS_TO}: ScaleInCooldown",
        examples=["600"],
    )
    schedule: Table = option(
        dict,
        "by name, when other bounds begin: `WHEN COUNT`, `WHEN MIN-MAX` or `WHEN normal` (min_count to max_count)",
        maps_to=f"{_MAPS_TO}: scheduled actions",
        examples=['schedule.night="cron(0 20 * * ? *) 0" and schedule.morning="cron(0 7 ? * MON-FRI *) normal"'],
        allowed="names of 1 to 64 letters, digits, - and _",
    )
    schedule_timezone: str = option(
        "UTC",
        "time zone of the schedule",
        maps_to=f"{_MAPS_TO}: Timezone",
        examples=["Europe/Berlin"],
        allowed="a name of the tz database",
    )

    @property
    def is_scaled(self) -> bool:
        """True when Application Auto Scaling says how many tasks run."""
        return self.max_count is not None

    @property
    def scaling_targets(self) -> dict[str, float]:
        """What is aimed at, by the name of AWS's metric."""
        named = {
            "ECSServiceAverageCPUUtilization": self.target_cpu_percent,
            "ECSServiceAverageMemoryUtilization": self.target_memory_percent,
            "ALBRequestCountPerTarget": self.target_requests_per_minute,
        }
        targets = {metric: value for metric, value in named.items() if value is not None}
        return targets or {"ECSServiceAverageCPUUtilization": float(_DEFAULT_CPU_PERCENT)}

    @property
    def scheduled_counts(self) -> dict[str, ScheduledCounts]:
        """The schedule's entries by name, `normal` put in numbers."""
        return {name: self._read_entry(name, text) for name, text in self.schedule.items()}

    @field_validator("schedule_timezone")
    @classmethod
    def _check_timezone(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", name):
            raise ValueError("a time zone is called as in the tz database, for example Europe/Berlin")
        return name

    @model_validator(mode="after")
    def _check_scaling(self) -> Self:
        if self.max_count is None:
            named = sorted(self.model_fields_set & (set(ScalingOptions.model_fields) - {"max_count"}))
            if named:
                raise ValueError(f"{named[0]} is of autoscaling, which needs max_count")
            return self
        if self.min_count > self.max_count:
            raise ValueError(f"min_count={self.min_count} is more than max_count={self.max_count}")
        _ = self.scheduled_counts  # raises where an entry cannot be read
        return self

    def _read_entry(self, name: str, text: str) -> ScheduledCounts:
        found = _ENTRY.fullmatch(text.strip())
        if not _ENTRY_NAME.fullmatch(name):
            raise ValueError(f"schedule: '{name}' is no name of an entry (letters, digits, '-' and '_')")
        if found is None:
            raise ValueError(
                f"schedule.{name}={text!r} is not 'WHEN COUNT' (for example: cron(0 20 * * ? *) 0; "
                "WHEN is cron(…), rate(…) or at(…))"
            )
        if found["normal"]:
            return ScheduledCounts(found["when"], self.min_count, self.max_count or 0)
        low, high = int(found["low"]), int(found["high"] or found["low"])
        if low > high:
            raise ValueError(f"schedule.{name}: {low} is more than {high}")
        return ScheduledCounts(found["when"], low, high)

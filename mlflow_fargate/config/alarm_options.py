"""CloudWatch alarms that end a rollout and bring the previous version back."""

from __future__ import annotations

from mlflow_fargate.config.option import Names, OptionGroup, option

_MAPS_TO = "ECS service: deploymentConfiguration.alarms"
# How long ECS keeps watching the alarms of a rolling update after its last old task, and CloudWatch needs to notice.
ALARM_MINUTES = 10
# From the first bad answer to the alarm: ELB reports every minute, and two of three minutes have to be bad.
NOTICING_MINUTES = 5


class AlarmOptions(OptionGroup):
    """Options of alarms. They are part of the service, so changing one does not start a rollout."""

    alarms: Names = option(
        (),
        "your own CloudWatch alarms: if one goes to ALARM during a rollout, ECS rolls back to the previous version",
        maps_to=f"{_MAPS_TO}.alarmNames",
        examples=["churn-too-few-orders"],
        allowed="names of alarms in the region",
    )
    max_error_rate: float | None = option(
        None,
        "creates an alarm on the share of requests that the model answers with 5xx; above it during a rollout, ECS "
        "rolls back to the previous version",
        unit="percent",
        ge=0,
        le=100,
        maps_to=f"CloudWatch alarm: HTTPCode_Target_5XX_Count / RequestCount; {_MAPS_TO}",
        examples=["5"],
    )
    max_latency_p99_ms: float | None = option(
        None,
        "creates an alarm on the 99th percentile of the response time; above it during a rollout, ECS rolls back to "
        "the previous version",
        unit="milliseconds",
        ge=1,
        le=4_000_000,
        maps_to=f"CloudWatch alarm: TargetResponseTime; {_MAPS_TO}",
        examples=["500"],
    )
    alarm_min_requests: int = option(
        20,
        "with max_error_rate or max_latency_p99_ms: minutes with fewer requests count as good, because a single "
        "request would decide them",
        unit="requests per minute",
        ge=1,
        maps_to="CloudWatch alarm: metric math",
        examples=["5"],
    )

    @property
    def alarm_limits(self) -> dict[str, float]:
        """The options of the alarms that are created, by their `-C` keys; empty without any."""
        limits = {"max_error_rate": self.max_error_rate, "max_latency_p99_ms": self.max_latency_p99_ms}
        named = {key: value for key, value in limits.items() if value is not None}
        return {**named, "alarm_min_requests": self.alarm_min_requests} if named else {}

    @property
    def has_alarms(self) -> bool:
        """True if an alarm can end a rollout."""
        return bool(self.alarms or self.alarm_limits)

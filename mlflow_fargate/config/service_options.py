"""How tasks are kept running and reached: count, health, logs, who may call, what is followed."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from mlflow_fargate.config.option import OptionGroup, option

# https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
# fmt: off
LOG_RETENTION_DAYS = (
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653,
)
# fmt: on


class ServiceOptions(OptionGroup):
    """Options of the ECS service and what stands around it."""

    desired_count: int = option(
        1, "how many tasks run", unit="tasks", ge=0, le=5000, maps_to="ECS service: desiredCount", examples=["2"]
    )
    auth: Literal["api_key", "none"] = option(
        "api_key",
        "who may call: holders of the API key, or everyone (none)",
        maps_to="Secrets Manager secret; ECS task definition: secrets",
        examples=["none"],
    )
    follow: str | None = option(
        None,
        "what the webhook service follows: a stage, an @alias, or pinned; by default what the URI says",
        maps_to="MLflow model registry: stage or alias",
        examples=["Production", "@champion", "pinned"],
        allowed="a stage, @ALIAS or pinned",
    )
    log_retention_days: int = option(
        30,
        "how long CloudWatch keeps the task's output",
        unit="days",
        maps_to="CloudWatch Logs log group: retentionInDays",
        allowed=", ".join(map(str, LOG_RETENTION_DAYS)),
        examples=["90"],
    )
    health_check_grace_seconds: int = option(
        300,
        "how long a new task may take to load the model before health checks count",
        unit="seconds",
        ge=0,
        le=2**31 - 1,
        maps_to="ECS service: healthCheckGracePeriodSeconds",
        examples=["600"],
    )
    deregistration_delay_seconds: int = option(
        30,
        "how long an old task finishes requests; more than the slowest prediction takes",
        unit="seconds",
        ge=0,
        le=3600,
        maps_to="ELB target group: deregistration_delay.timeout_seconds",
        examples=["120"],
    )

    @field_validator("log_retention_days")
    @classmethod
    def _check_retention(cls, days: int) -> int:
        if days not in LOG_RETENTION_DAYS:
            raise ValueError(f"CloudWatch keeps logs for one of {', '.join(map(str, LOG_RETENTION_DAYS))} days")
        return days

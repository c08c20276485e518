"""The ECS service: number of tasks, health checks, logs, access, what is followed."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator, model_validator
from typing_extensions import Self

from mlflow_fargate.config.option import OptionGroup, Table, option

# https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
# fmt: off
LOG_RETENTION_DAYS = (
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653,
)
# fmt: on

_MOST_TAGS = 40
_TAG_KEY = re.compile(r"[\w +\-=.:/@]{1,128}")
_TAG_VALUE = re.compile(r"[\w +\-=.:/@]{0,256}")


class ServiceOptions(OptionGroup):
    """Options of the ECS service and its surroundings."""

    desired_count: int = option(
        1, "number of tasks", unit="tasks", ge=0, le=5000, maps_to="ECS service: desiredCount", examples=["2"]
    )
    spot: bool = option(
        False,
        "run tasks on Fargate Spot: up to 70% cheaper, but AWS can reclaim the capacity with two minutes' notice",
        maps_to="ECS service: capacityProviderStrategy, FARGATE_SPOT",
        examples=["true"],
    )
    on_demand_base: int = option(
        0,
        "with spot=true: run this many tasks on demand, and the rest on Spot",
        unit="tasks",
        ge=0,
        le=5000,
        maps_to="ECS service: capacityProviderStrategy.base of FARGATE",
        examples=["1"],
    )
    tags: Table = option(
        dict,
        "tags for the AWS resources; an update changes only the tags of the service and its tasks",
        allowed="up to 40 tags; some keys are reserved",
        maps_to="tags of each resource",
        examples=["tags.team=pricing"],
    )
    host: str | None = option(
        None,
        "additional host name for this deployment; you create the DNS record. The load balancer's own URL keeps "
        "working over HTTP, but not over HTTPS, because no certificate covers the load balancer's name",
        pattern=r"^[A-Za-z0-9.*?-]{1,128}$",
        allowed="a host name; * and ? are wildcards",
        maps_to="ELB listener rule: host-header",
        examples=["churn.example.com"],
    )
    auth: Literal["api_key", "none"] = option(
        "api_key",
        "who can call the deployment: anyone with the API key (api_key), or everyone (none)",
        maps_to="Secrets Manager secret; ECS task definition: secrets",
        examples=["none"],
    )
    follow: str | None = option(
        None,
        "what the webhook service follows: a stage, an @alias, or nothing (pinned); by default, the stage or alias "
        "in the model URI",
        maps_to="MLflow model registry: stage or alias",
        examples=["Production", "@champion", "pinned"],
        allowed="a stage, @ALIAS or pinned",
    )
    variant_of: str | None = option(
        None,
        "makes this deployment a variant of another one: it shares that one's URL, path and API key, and gets a share "
        "of its requests; its own name must begin with the other's, as in churn-challenger",
        maps_to="ELB listener rule: weighted target groups",
        examples=["churn"],
        allowed="the name of a deployment",
    )
    log_retention_days: int = option(
        30,
        "how long CloudWatch keeps the tasks' logs",
        unit="days",
        maps_to="CloudWatch Logs log group: retentionInDays",
        allowed=", ".join(map(str, LOG_RETENTION_DAYS)),
        examples=["90"],
    )
    health_check_grace_seconds: int = option(
        300,
        "time for a new task to load the model; until then, failed health checks are ignored",
        unit="seconds",
        ge=0,
        le=2**31 - 1,
        maps_to="ECS service: healthCheckGracePeriodSeconds",
        examples=["600"],
    )
    deregistration_delay_seconds: int = option(
        30,
        "how long an old task has to finish its requests; must be longer than the slowest prediction",
        unit="seconds",
        ge=0,
        le=3600,
        maps_to="ELB target group: deregistration_delay.timeout_seconds",
        examples=["120"],
    )

    @field_validator("tags")
    @classmethod
    def _check_tags(cls, tags: dict[str, str]) -> dict[str, str]:
        # https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs-using-tags.html; ten of the 50 are reserved.
        if len(tags) > _MOST_TAGS:
            raise ValueError(f"at most {_MOST_TAGS} tags are allowed")
        for key, value in tags.items():
            if not _TAG_KEY.fullmatch(key) or not _TAG_VALUE.fullmatch(value):
                raise ValueError(
                    f"'{key}={value}' is not a valid tag: letters, digits, spaces and + - = . _ : / @, "
                    "at most 128 characters in the key and 256 in the value"
                )
            if key.lower().startswith(("aws:", "mlflow-fargate:")) or key == "managed-by":
                raise ValueError(f"tag '{key}' is reserved")
        return tags

    @model_validator(mode="after")
    def _check_spot(self) -> Self:
        if self.on_demand_base and not self.spot:
            raise ValueError("on_demand_base requires spot=true")
        return self

    @field_validator("log_retention_days")
    @classmethod
    def _check_retention(cls, days: int) -> int:
        if days not in LOG_RETENTION_DAYS:
            raise ValueError(f"must be one of {', '.join(map(str, LOG_RETENTION_DAYS))}")
        return days

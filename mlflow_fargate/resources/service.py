"""The properties of the task definition, the service and its autoscaling."""

from __future__ import annotations

from typing import cast

from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.resources.alarms import alarm_names
from mlflow_fargate.resources.names import tag_value
from mlflow_fargate.resources.properties import (
    Capacity,
    ContainerHealthCheck,
    ScalingProperties,
    ServiceProperties,
    Strategy,
    TaskProperties,
)
from mlflow_fargate.resources.specs import DeploymentSpec, WebhookSpec, alternate_group_name, target_group_of


def task_properties(spec: DeploymentSpec | WebhookSpec) -> TaskProperties:
    """Returns the task definition of one revision."""
    config = spec.config
    return TaskProperties(
        image=spec.image,
        cpu=config.cpu,
        memory_mib=config.memory_mib,
        architecture=config.architecture,
        port=config.port,
        environment={**config.environment, **spec.environment},
        secrets=dict(config.secrets),
        has_api_key=config.auth == "api_key",
        log_group=spec.log_group,
        region=spec.endpoint.region,
        stop_timeout_seconds=config.stop_timeout_seconds,
        ephemeral_storage_gib=config.ephemeral_storage_gib,
        efs=dict(sorted(config.file_systems.items())),
        health_check=container_health_check(config),
        execution_role_arn=spec.endpoint.execution_role_arn,
        task_role_arn=config.task_role_arn,
        execute_command=config.enable_execute_command,
        label=spec.label,
    )


def container_health_check(config: DeploymentConfig) -> ContainerHealthCheck | None:
    """Returns a health check every 10 seconds, after the time to load the model (at most five minutes)."""
    if config.container_health_check is None:
        return None
    return {
        "command": ["CMD-SHELL", config.container_health_check],
        "interval": 10,
        "timeout": 5,
        "retries": 3,
        "startPeriod": min(300, config.health_check_grace_seconds),
    }


def service_properties(spec: DeploymentSpec | WebhookSpec, task_digest: str) -> ServiceProperties:
    """Returns the service; with autoscaling or an unnamed count, the count is only set when the service is created."""
    config = spec.config
    is_kept = config.is_scaled or spec.keeps_count
    first_count = min(max(config.desired_count, config.min_count), config.max_count) if config.max_count else None
    if spec.keeps_count and first_count is None:
        first_count = config.desired_count
    return ServiceProperties(
        task_definition=task_digest,
        desired_count=None if is_kept else config.desired_count,
        first_count=first_count,
        target_group=target_group_of(spec),
        alternate_target_group=alternate_group_name(spec) if config.shifts_traffic else None,
        strategy=cast(Strategy, config.strategy_settings),
        infrastructure_role_arn=spec.endpoint.infrastructure_role_arn if config.shifts_traffic else None,
        container_port=config.port,
        subnets=tuple(sorted(spec.endpoint.network.subnets)),
        security_groups=tuple(sorted(config.security_groups)),
        assign_public_ip=spec.endpoint.network.assigns_public_ip,
        health_check_grace_seconds=config.health_check_grace_seconds,
        capacity=Capacity(config.spot, config.on_demand_base),
        execute_command=config.enable_execute_command,
        follow=tag_value(spec.follow),
        tags=dict(config.tags),
        alarms=alarm_names(spec),
        alarm_limits=config.alarm_limits,
    )


def scaling_properties(spec: DeploymentSpec) -> ScalingProperties:
    """Returns the bounds, targets and schedule of autoscaling."""
    config = spec.config
    targets = dict(sorted(config.scaling_targets.items()))
    return ScalingProperties(
        counts=(config.min_count, config.max_count or 0),
        targets=targets,
        cooldown_seconds={"out": config.scale_out_cooldown_seconds, "in": config.scale_in_cooldown_seconds},
        requests_of=target_group_of(spec) if "ALBRequestCountPerTarget" in targets else None,
        schedule=dict(sorted(config.scheduled_counts.items())),
        timezone=config.schedule_timezone if config.schedule else None,
    )

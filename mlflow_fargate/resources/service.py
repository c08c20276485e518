"""What runs: the task definition, the service that keeps so many tasks of it, and how autoscaling counts them."""

from __future__ import annotations

from typing import Any

from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.resources.names import tag_value
from mlflow_fargate.resources.specs import DeploymentSpec, WebhookSpec, alternate_group_name, target_group_of


def task_properties(spec: DeploymentSpec | WebhookSpec) -> dict[str, Any]:
    """The task definition without what only AWS knows (the ARN of the API key's secret and of the execution role)."""
    config = spec.config
    return {
        "image": spec.image,
        "cpu": config.cpu,
        "memory_mib": config.memory_mib,
        "architecture": config.architecture,
        "port": config.port,
        "environment": {**config.environment, **spec.environment},
        "secrets": dict(config.secrets),
        "has_api_key": config.auth == "api_key",
        "log_group": spec.log_group,
        "region": spec.endpoint.region,
        "stop_timeout_seconds": config.stop_timeout_seconds,
        "ephemeral_storage_gib": config.ephemeral_storage_gib,
        "efs": {path: list(system) for path, system in sorted(config.file_systems.items())},
        "health_check": container_health_check(config),
        "execution_role_arn": spec.endpoint.execution_role_arn,
        "task_role_arn": config.task_role_arn,
        "execute_command": config.enable_execute_command,
        "label": spec.label,
        # A service lives on when its revision is deregistered, but ECS updates none to such a revision.
        "status": "ACTIVE",
    }


def container_health_check(config: DeploymentConfig) -> dict[str, Any] | None:
    """Asked as often as the load balancer asks, from when the model may be loaded (five minutes at most)."""
    if config.container_health_check is None:
        return None
    return {
        "command": ["CMD-SHELL", config.container_health_check],
        "interval": 10,
        "timeout": 5,
        "retries": 3,
        "startPeriod": min(300, config.health_check_grace_seconds),
    }


def service_properties(spec: DeploymentSpec | WebhookSpec, task_digest: str) -> dict[str, Any]:
    """The service; `rollout` is wanted COMPLETED, so that a failed first rollout is tried again by the next apply."""
    config = spec.config
    count: dict[str, Any] = {"desired_count": config.desired_count}
    if config.is_scaled:
        # The count is autoscaling's affair: it is said once, when the service is made.
        first = min(max(config.desired_count, config.min_count), config.max_count or 0)
        count = {"desired_count": None, "first_count": first}
    return {
        "task_definition": task_digest,
        **count,
        "target_group": target_group_of(spec),
        "alternate_target_group": alternate_group_name(spec) if config.shifts_traffic else None,
        "strategy": config.strategy_settings,
        "infrastructure_role_arn": spec.endpoint.infrastructure_role_arn if config.shifts_traffic else None,
        "container_port": config.port,
        "subnets": sorted(spec.endpoint.network.subnets),
        "security_groups": sorted(config.security_groups),
        "assign_public_ip": config.assign_public_ip,
        "health_check_grace_seconds": config.health_check_grace_seconds,
        "capacity": {"spot": config.spot, "on_demand_base": config.on_demand_base},
        "execute_command": config.enable_execute_command,
        "follow": tag_value(spec.follow),
        "tags": dict(config.tags),
        "rollout": "not failed",
    }


def scaling_properties(spec: DeploymentSpec) -> dict[str, Any]:
    """How autoscaling counts the service's tasks; `requests_of` is the target group whose requests are counted."""
    config = spec.config
    targets = dict(sorted(config.scaling_targets.items()))
    schedule = {name: list(entry) for name, entry in sorted(config.scheduled_counts.items())}
    return {
        "counts": [config.min_count, config.max_count],
        "targets": targets,
        "cooldown_seconds": {"out": config.scale_out_cooldown_seconds, "in": config.scale_in_cooldown_seconds},
        "requests_of": target_group_of(spec) if "ALBRequestCountPerTarget" in targets else None,
        "schedule": schedule,
        "timezone": config.schedule_timezone if schedule else None,
    }

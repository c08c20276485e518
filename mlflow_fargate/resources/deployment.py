"""What a deployment is made of: where it is reached, where it logs, what it may read; and its service (service.py)."""

from __future__ import annotations

from typing import Any

from mlflow_fargate.plan import Resource
from mlflow_fargate.resolved_model import Provenance
from mlflow_fargate.resources.names import TEST_HEADER, digest_of, tag_value
from mlflow_fargate.resources.service import scaling_properties, service_properties, task_properties
from mlflow_fargate.resources.specs import (
    DeploymentSpec,
    ServiceSpec,
    alternate_group_name,
    target_group_name,
    target_group_of,
)


def deployment_resources(spec: DeploymentSpec) -> tuple[Resource, ...]:
    """Everything a deployment is made of, on an endpoint that is there."""
    task = task_properties(spec)
    task_tags = {**spec.tags, **provenance_tags(spec.provenance)}
    resources = (*surrounding_resources(spec), Resource("task definition", spec.family, task, task_tags))
    service = Resource("service", spec.name, service_properties(spec, digest_of(task)), spec.tags)
    if spec.config.is_scaled:
        scaling = Resource("autoscaling", spec.name, scaling_properties(spec), spec.tags)
        return (*resources, service, *_test_resources(spec, is_wanted=False), scaling)
    # It goes before the service is told a count: two masters would pull at that.
    no_scaling = Resource("autoscaling", spec.name, is_wanted=False)
    return (*resources, no_scaling, service, *_test_resources(spec, is_wanted=False))


def surrounding_resources(spec: ServiceSpec) -> tuple[Resource, ...]:
    """What a service needs before its task definition: where it logs, what it may read, where it is reached."""
    config = spec.config
    # ECS refuses a service with a target group that no rule names yet, so the rule goes first (another port).
    rule = {"paths": [f"/{spec.name}", f"/{spec.name}/*"], "target_groups": _groups_of(spec)}
    resources = [Resource("log group", spec.log_group, {"retention_days": config.log_retention_days}, spec.tags)]
    if config.auth == "api_key":
        resources.append(Resource("API key", spec.secret_name, {}, spec.tags))
    if config.secrets and not spec.endpoint.execution_role_arn:
        policy = {"secrets": sorted(_secret_arn(value) for value in config.secrets.values())}
        resources.append(Resource("secrets policy", f"deployment-{spec.name}", policy, spec.tags))
    if "target group" not in spec.endpoint.network.adopted:
        resources += [
            Resource("target group", target_group_name(spec), target_group_properties(spec), spec.tags),
            *_test_resources(spec, is_wanted=True),
            Resource("listener rule", f"/{spec.name}/*", rule, spec.tags),
            Resource("host rule", spec.name, host_rule_properties(spec), spec.tags, is_wanted=config.host is not None),
        ]
    return tuple(resources)


def _test_resources(spec: ServiceSpec, *, is_wanted: bool) -> tuple[Resource, ...]:
    """What shifting traffic needs beside the rest; once the service does without it, it goes.

    The test rule leads whoever knows the header's value, which is made with the rule, to the new tasks.
    """
    if spec.config.shifts_traffic != is_wanted or "target group" in spec.endpoint.network.adopted:
        return ()
    rule = {
        "paths": [f"/{spec.name}", f"/{spec.name}/*"],
        "header": TEST_HEADER,
        "target_groups": _groups_of(spec),
    }
    group = target_group_properties(spec)
    resources = (
        Resource("alternate target group", alternate_group_name(spec), group, spec.tags, is_wanted=is_wanted),
        Resource("test rule", f"/{spec.name}/*", rule, spec.tags, is_wanted=is_wanted),
    )
    return resources if is_wanted else resources[::-1]


def _groups_of(spec: ServiceSpec) -> list[str]:
    """Names of the target groups that the deployment's rules share requests between."""
    own = [target_group_of(spec)]
    return sorted([*own, alternate_group_name(spec)]) if spec.config.shifts_traffic else own


def provenance_tags(provenance: Provenance) -> dict[str, str]:
    """For people who look in the AWS console: they are written by the call that makes the revision, so they stay true.

    Who made it, ECS keeps itself (`registeredBy`). Nothing reads these: the label is what is read back.
    """
    told = {
        "model": provenance.name,
        "model-version": provenance.version,
        "run-id": provenance.run_id,
        "source": provenance.resolved_uri,
        "requested": provenance.requested_uri,
    }
    return {f"mlflow-fargate:{key}": tag_value(value) for key, value in told.items() if value}


def target_group_properties(spec: ServiceSpec) -> dict[str, Any]:
    """Health checks tuned for a quick rollout: new targets need one passing check, every 5 seconds."""
    return {
        "port": spec.config.port,
        "health_check_path": f"/{spec.name}/readyz",
        "health_check_interval_seconds": 5,
        "health_check_timeout_seconds": 4,
        "healthy_threshold": 2,
        "unhealthy_threshold": 3,
        "deregistration_delay_seconds": spec.config.deregistration_delay_seconds,
    }


def host_rule_properties(spec: ServiceSpec) -> dict[str, Any]:
    """All paths of one host; the service answers without its prefix as well."""
    return {"hosts": [spec.config.host] if spec.config.host else [], "target_groups": [target_group_of(spec)]}


def _secret_arn(value_from: str) -> str:
    """The secret's own ARN: a reference may go on with :json-key:version-stage:version-id."""
    return ":".join(value_from.split(":")[:7])

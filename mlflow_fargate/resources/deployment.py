"""The resources of a deployment: routing, logs, permissions; and its service (service.py)."""

from __future__ import annotations

from mlflow_fargate.deployment import VARIANT_HEADER
from mlflow_fargate.plan import Properties, Resource
from mlflow_fargate.resolved_model import Provenance
from mlflow_fargate.resources.alarms import alarm_resources
from mlflow_fargate.resources.inference_log import log_role
from mlflow_fargate.resources.names import TEST_HEADER, tag_value
from mlflow_fargate.resources.properties import (
    ApiKeyProperties,
    HostRuleProperties,
    ListenerRuleProperties,
    LogGroupProperties,
    SecretsPolicyProperties,
    TargetGroupProperties,
    TestRuleProperties,
)
from mlflow_fargate.resources.service import scaling_properties, service_properties, task_properties
from mlflow_fargate.resources.specs import (
    DeploymentSpec,
    ServiceSpec,
    alternate_group_name,
    target_group_name,
    target_group_of,
)


def deployment_resources(spec: DeploymentSpec) -> tuple[Resource[Properties], ...]:
    """Returns all resources of a deployment on an existing endpoint."""
    is_scaled = spec.config.is_scaled
    task = task_properties(spec)
    task_tags = {**spec.tags, **provenance_tags(spec.provenance)}
    definition = Resource("task definition", spec.family, task, task_tags)
    service = Resource("service", spec.name, service_properties(spec, task.digest), spec.tags)
    scaling = Resource("autoscaling", spec.name, scaling_properties(spec), spec.tags, is_wanted=is_scaled)
    tests = _test_resources(spec, is_wanted=False)
    # If it is not desired, it is deleted before the service gets a count: otherwise both would set it.
    last = (service, *tests, scaling) if is_scaled else (scaling, service, *tests)
    # ECS refuses a service whose alarms do not exist, so they come before it, and are deleted after it.
    alarms = alarm_resources(spec)
    kept, dropped = ([alarm for alarm in alarms if alarm.is_wanted is wanted] for wanted in (True, False))
    return (*parent_resources(spec), *log_role(spec), definition, *kept, *last, *dropped)


def parent_resources(spec: ServiceSpec) -> tuple[Resource[Properties], ...]:
    """Returns what a service needs before its task definition: logs, permissions, routing."""
    config = spec.config
    logs = LogGroupProperties(config.log_retention_days)
    resources: list[Resource[Properties]] = [Resource("log group", spec.log_group, logs, spec.tags)]
    if config.auth == "api_key":
        resources.append(Resource("API key", spec.secret_name, ApiKeyProperties(), spec.tags))
    if config.secrets and not spec.endpoint.execution_role_arn:
        policy = SecretsPolicyProperties(tuple(sorted(_secret_arn(value) for value in config.secrets.values())))
        resources.append(Resource("secrets policy", f"deployment-{spec.name}", policy, spec.tags))
    if "target group" not in spec.endpoint.network.adopted:
        group = Resource("target group", target_group_name(spec), target_group_properties(spec), spec.tags)
        resources += [group, *_rules(spec)]
    return tuple(resources)


def _rules(spec: ServiceSpec) -> tuple[Resource[Properties], ...]:
    """ECS refuses a service whose target group is not in a rule yet, so the rules come first.

    A variant's own rule is for requests that name it. Its share of all others is part of its deployment's rules, and
    is not planned here: shares change without a rollout, and only once its tasks are healthy.
    """
    if spec.variant:
        named = TestRuleProperties(_paths(spec), VARIANT_HEADER, _groups_of(spec), spec.variant)
        return (Resource("variant rule", f"/{spec.public_name}/* ({spec.variant})", named, spec.tags),)
    rule = ListenerRuleProperties(_paths(spec), _groups_of(spec))
    # All paths of one host; the service also answers without its prefix.
    host_rule = HostRuleProperties((spec.config.own_host,) if spec.config.own_host else (), (target_group_of(spec),))
    return (
        *_test_resources(spec, is_wanted=True),
        Resource("listener rule", f"/{spec.name}/*", rule, spec.tags),
        Resource("host rule", spec.name, host_rule, spec.tags, is_wanted=spec.config.own_host is not None),
    )


def _test_resources(spec: ServiceSpec, *, is_wanted: bool) -> tuple[Resource[Properties], ...]:
    """Extra resources for traffic shifting; deleted once the service no longer uses them.

    The test rule routes requests with the header's value, which is generated with the rule, to the new tasks.
    """
    if spec.config.shifts_traffic != is_wanted or spec.variant or "target group" in spec.endpoint.network.adopted:
        return ()
    rule = TestRuleProperties(_paths(spec), TEST_HEADER, _groups_of(spec))
    group = target_group_properties(spec)
    resources: tuple[Resource[Properties], ...] = (
        Resource("alternate target group", alternate_group_name(spec), group, spec.tags, is_wanted=is_wanted),
        Resource("test rule", f"/{spec.name}/*", rule, spec.tags, is_wanted=is_wanted),
    )
    return resources if is_wanted else resources[::-1]


def _paths(spec: ServiceSpec) -> tuple[str, ...]:
    return (f"/{spec.public_name}", f"/{spec.public_name}/*")


def _groups_of(spec: ServiceSpec) -> tuple[str, ...]:
    """The names of the target groups that the deployment's rules forward to."""
    alternate = [alternate_group_name(spec)] if spec.config.shifts_traffic else []
    return tuple(sorted([target_group_of(spec), *alternate]))


def provenance_tags(provenance: Provenance) -> dict[str, str]:
    """Returns tags for readers of the AWS console; written when the revision is registered, so they stay correct.

    ECS itself records who registered it (`registeredBy`). Only the label is ever read back, not these.
    """
    values = {
        "model": provenance.name,
        "model-version": provenance.version,
        "run-id": provenance.run_id,
        "source": provenance.resolved_uri,
        "requested": provenance.requested_uri,
    }
    return {f"mlflow-fargate:{key}": tag_value(value) for key, value in values.items() if value}


def target_group_properties(spec: ServiceSpec) -> TargetGroupProperties:
    """Returns health checks for quick rollouts: every 5 seconds, healthy after two in a row."""
    return TargetGroupProperties(
        port=spec.config.port,
        health_check_path=f"/{spec.public_name}/readyz",
        health_check_interval_seconds=5,
        health_check_timeout_seconds=4,
        healthy_threshold=2,
        unhealthy_threshold=3,
        deregistration_delay_seconds=spec.config.deregistration_delay_seconds,
    )


def _secret_arn(value_from: str) -> str:
    """The secret's ARN, without the :json-key:version-stage:version-id that a reference can have."""
    return ":".join(value_from.split(":")[:7])

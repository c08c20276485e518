"""What an endpoint and a deployment are made of: pure functions from a spec to the resources wanted, in order.

Only names and properties are decided here; which calls make them is the business of aws/. The order is that of
dependency, so that a plan can be applied from first to last and undone from last to first.

    endpoint     cluster · execution role · two security groups · load balancer · listener
    deployment   log group · API key · secrets policy · target group · listener rule · host rule
                 · task definition · service · autoscaling
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mlflow_fargate.config import OF_THE_CALL, OF_THE_SERVICE, DeploymentConfig
from mlflow_fargate.deployment import Provenance
from mlflow_fargate.plan import Resource

MANAGED_BY = {"managed-by": "mlflow-fargate"}
ENDPOINT_TAG = "mlflow-fargate:endpoint"
DEPLOYMENT_TAG = "mlflow-fargate:deployment"
CONTAINER = "model"
# A header that servers read differently is a way to smuggle requests past a check.
_LOAD_BALANCER_ATTRIBUTES = {"routing.http.drop_invalid_header_fields.enabled": "true"}
# Names of the options that shape an endpoint: they are given with the first deployment or with create-endpoint.
ENDPOINT_OPTIONS = (
    "vpc",
    "subnets",
    "security_groups",
    "load_balancer_arn",
    "listener_arn",
    "target_group_arn",
    "certificate_arn",
    "execution_role_arn",
    "permissions_boundary",
    "role_path",
)


@dataclass(frozen=True)
class Network:
    """Where the load balancer and the tasks live."""

    vpc: str
    subnets: tuple[str, ...]
    adopted: Mapping[str, str] = field(default_factory=dict, hash=False)  # kind → identifier of what is not made here


@dataclass(frozen=True)
class EndpointSpec:
    """A wanted endpoint: one front door that deployments share."""

    name: str
    network: Network
    region: str
    account: str
    certificate_arn: str | None = None
    execution_role_arn: str | None = None
    permissions_boundary: str | None = None
    role_path: str = "/"

    @property
    def full_name(self) -> str:
        """The name of its cluster, load balancer, security groups and role; 31 characters at most."""
        return f"mlflow-fargate-{self.name}"

    @property
    def tags(self) -> dict[str, str]:
        return {**MANAGED_BY, ENDPOINT_TAG: self.name}


@dataclass(frozen=True)
class DeploymentSpec:
    """A wanted deployment: a model's image behind an endpoint's path."""

    name: str
    endpoint: EndpointSpec
    config: DeploymentConfig
    image: str  # by digest
    provenance: Provenance
    follow: str

    @property
    def family(self) -> str:
        """The task definitions' name. No endpoint has a '_' in its name, so `a` with `b-c` is not `a-b` with `c`."""
        return f"{self.endpoint.full_name}_{self.name}"

    @property
    def log_group(self) -> str:
        return log_group_name(self.endpoint.name, self.name)

    @property
    def secret_name(self) -> str:
        return f"mlflow-fargate/{self.endpoint.name}/{self.name}"

    @property
    def tags(self) -> dict[str, str]:
        return {**self.config.tags, **self.endpoint.tags, DEPLOYMENT_TAG: self.name}

    @property
    def label(self) -> str:
        """What is deployed and how, as one JSON text that stands on the container.

        A docker label, not tags: tags take 256 characters without quotes or braces, and are written by another call
        than the one that moves the service, so that they would lie after a rollback. What the service itself says
        (what it follows, how many tasks run) is left out: it may change without another revision.
        """
        named = self.config.named
        settings = {key: named[key] for key in named if key not in OF_THE_CALL | OF_THE_SERVICE}
        return json.dumps({"provenance": asdict(self.provenance), "settings": settings}, sort_keys=True)


def endpoint_resources(spec: EndpointSpec) -> tuple[Resource, ...]:
    """Everything an endpoint is made of."""
    listener_port = 443 if spec.certificate_arn else 80
    name = spec.full_name
    load_balancer_rules = [80, 443] if spec.certificate_arn else [80]
    balancer = {"subnets": sorted(spec.network.subnets), "attributes": dict(_LOAD_BALANCER_ATTRIBUTES)}
    own = (Resource("cluster", name, {"capacity_providers": ["FARGATE", "FARGATE_SPOT"]}, spec.tags), *_roles(spec))
    if spec.network.adopted:
        return own
    resources = [
        Resource("load balancer security group", f"{name}-alb", {"open_ports": load_balancer_rules}, spec.tags),
        Resource("task security group", f"{name}-tasks", {"open_ports": ["from the load balancer"]}, spec.tags),
        Resource("load balancer", name, balancer, spec.tags),
        Resource("listener", f"{name}:{listener_port}", {"certificate": spec.certificate_arn}, spec.tags),
    ]
    if spec.certificate_arn:
        resources.append(Resource("redirect listener", f"{name}:80", {}, spec.tags))
    return (*own, *resources)


def _roles(spec: EndpointSpec) -> tuple[Resource, ...]:
    """The endpoint's execution role, where none is given."""
    if spec.execution_role_arn:
        return ()
    role = {**execution_policies(spec), "path": spec.role_path, "permissions_boundary": spec.permissions_boundary}
    return (Resource("execution role", f"{spec.full_name}-{spec.region}", role, spec.tags),)


def deployment_resources(spec: DeploymentSpec) -> tuple[Resource, ...]:
    """Everything a deployment is made of, on an endpoint that is there."""
    config = spec.config
    task = task_properties(spec)
    # ECS refuses a service with a target group that no rule names yet, so the rule goes first (another port).
    rule = {"paths": [f"/{spec.name}", f"/{spec.name}/*"], "target_group": target_group_of(spec)}
    resources = [Resource("log group", spec.log_group, {"retention_days": config.log_retention_days}, spec.tags)]
    if config.auth == "api_key":
        resources.append(Resource("API key", spec.secret_name, {}, spec.tags))
    if config.secrets and not spec.endpoint.execution_role_arn:
        policy = {"secrets": sorted(_secret_arn(value) for value in config.secrets.values())}
        resources.append(Resource("secrets policy", f"deployment-{spec.name}", policy, spec.tags))
    if "target group" not in spec.endpoint.network.adopted:
        resources += [
            Resource("target group", target_group_name(spec), target_group_properties(spec), spec.tags),
            Resource("listener rule", f"/{spec.name}/*", rule, spec.tags),
            Resource("host rule", spec.name, host_rule_properties(spec), spec.tags, is_wanted=config.host is not None),
        ]
    task_tags = {**spec.tags, **provenance_tags(spec.provenance)}
    resources.append(Resource("task definition", spec.family, task, task_tags))
    service = Resource("service", spec.name, service_properties(spec, digest_of(task)), spec.tags)
    if config.is_scaled:
        scaling = Resource("autoscaling", spec.name, scaling_properties(spec), spec.tags)
        return (*resources, service, scaling)
    # It goes before the service is told a count: two masters would pull at that.
    return (*resources, Resource("autoscaling", spec.name, is_wanted=False), service)


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


def target_group_properties(spec: DeploymentSpec) -> dict[str, Any]:
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


def host_rule_properties(spec: DeploymentSpec) -> dict[str, Any]:
    """All paths of one host; the service answers without its prefix as well."""
    return {"hosts": [spec.config.host] if spec.config.host else [], "target_group": target_group_of(spec)}


def task_properties(spec: DeploymentSpec) -> dict[str, Any]:
    """The task definition without what only AWS knows (the ARN of the API key's secret and of the execution role)."""
    config = spec.config
    return {
        "image": spec.image,
        "cpu": config.cpu,
        "memory_mib": config.memory_mib,
        "architecture": config.architecture,
        "port": config.port,
        "environment": {
            **config.environment,
            "PATH_PREFIX": f"/{spec.name}",
            "BENTOML_PORT": str(config.port),
            # The task's limit is not the container's own cgroup's: without a word it would count Fargate's cores.
            "TASK_CPU_UNITS": str(config.cpu),
            "STOP_TIMEOUT_SECONDS": str(config.stop_timeout_seconds),
        },
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


def service_properties(spec: DeploymentSpec, task_digest: str) -> dict[str, Any]:
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
        "container_port": config.port,
        "subnets": sorted(spec.endpoint.network.subnets),
        "security_groups": sorted(config.security_groups),
        "assign_public_ip": config.assign_public_ip,
        "health_check_grace_seconds": config.health_check_grace_seconds,
        "capacity": {"spot": config.spot, "on_demand_base": config.on_demand_base},
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


def execution_policies(spec: EndpointSpec) -> dict[str, Any]:
    """The least an execution role needs: pull from our repository, write our logs, read our API keys.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_execution_IAM_role.html, narrowed from its
    managed policy, which allows every repository and log group.
    """
    place = f"{spec.region}:{spec.account}"
    logs = f"arn:aws:logs:{place}:log-group:/mlflow-fargate/{spec.name}/*"
    pull = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    statements = [
        _allow(["ecr:GetAuthorizationToken"], "*"),
        _allow(pull, f"arn:aws:ecr:{place}:repository/mlflow-fargate/{spec.name}"),
        _allow(["logs:CreateLogStream", "logs:PutLogEvents"], logs),
        _allow(
            ["secretsmanager:GetSecretValue"], f"arn:aws:secretsmanager:{place}:secret:mlflow-fargate/{spec.name}/*"
        ),
    ]
    return {"policy": {"Version": "2012-10-17", "Statement": statements}}


def target_group_of(spec: DeploymentSpec) -> str:
    """Name of the target group that the tasks are registered in: the deployment's own, or the one that was given."""
    given = spec.endpoint.network.adopted.get("target group")
    return given.split("/")[1] if given else target_group_name(spec)


def target_group_name(spec: DeploymentSpec) -> str:
    """At most 32 letters, digits and hyphens; another port or VPC is another target group (both are immutable)."""
    unique = f"{spec.endpoint.name}/{spec.name}/{spec.config.port}/{spec.endpoint.network.vpc}"
    readable = "".join(letter if letter.isalnum() else "-" for letter in spec.name)[:18].strip("-")
    return f"mlf-{readable}-{hashlib.sha256(unique.encode()).hexdigest()[:8]}"


def log_group_name(endpoint: str, deployment: str) -> str:
    """Where a deployment's tasks write."""
    return f"/mlflow-fargate/{endpoint}/{deployment}"


def digest_of(properties: Mapping[str, Any]) -> str:
    """A short name for a set of properties: 16 hex digits of their canonical JSON's SHA-256."""
    return hashlib.sha256(json.dumps(properties, sort_keys=True).encode()).hexdigest()[:16]


def tag_value(text: str) -> str:
    """`text` with what AWS allows in no tag replaced by '_', 256 characters at most."""
    return "".join(letter if letter.isalnum() or letter in " +-=._:/@" else "_" for letter in text)[:256]


def _allow(actions: list[str], resource: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resource}


def _secret_arn(value_from: str) -> str:
    """The secret's own ARN: a reference may go on with :json-key:version-stage:version-id."""
    return ":".join(value_from.split(":")[:7])

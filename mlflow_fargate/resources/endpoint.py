"""The resources of an endpoint: cluster, roles, two security groups, load balancer, listener."""

from __future__ import annotations

from mlflow_fargate.plan import Properties, Resource
from mlflow_fargate.resources.balancer_properties import (
    IDLE_TIMEOUT,
    CertificateProperties,
    DnsRecordProperties,
    LoadBalancerPorts,
    LoadBalancerProperties,
    RedirectProperties,
)
from mlflow_fargate.resources.names import MANAGED_BY
from mlflow_fargate.resources.policies import Policy, allow, policy_of
from mlflow_fargate.resources.properties import ClusterProperties, ListenerProperties, RoleProperties, TaskPorts
from mlflow_fargate.resources.specs import EndpointSpec

# Headers that servers parse differently allow request smuggling.
_LOAD_BALANCER_ATTRIBUTES = {"routing.http.drop_invalid_header_fields.enabled": "true"}

_IDLE_SECONDS = 60  # of a new load balancer


def endpoint_resources(spec: EndpointSpec) -> tuple[Resource[Properties], ...]:
    """Returns all resources of an endpoint."""
    listener_port = 443 if spec.certificate_arn else 80
    name = spec.full_name
    opened = LoadBalancerPorts((80, 443) if spec.certificate_arn else (80,), spec.allowed_cidrs)
    attributes = dict(_LOAD_BALANCER_ATTRIBUTES)
    if spec.idle_timeout_seconds > _IDLE_SECONDS:
        attributes[IDLE_TIMEOUT] = str(spec.idle_timeout_seconds)
    balancer = LoadBalancerProperties(spec.network.balancer_subnets, attributes, spec.scheme)
    always = (Resource("cluster", name, ClusterProperties(("FARGATE", "FARGATE_SPOT")), spec.tags), *_roles(spec))
    if spec.network.adopted:
        return always
    resources: list[Resource[Properties]] = [
        Resource("load balancer security group", f"{name}-alb", opened, spec.tags),
        Resource("task security group", f"{name}-tasks", TaskPorts(), spec.tags),
        Resource("load balancer", name, balancer, spec.tags),
        *_domain_resources(spec),
        Resource("listener", f"{name}:{listener_port}", ListenerProperties(spec.certificate_arn), spec.tags),
    ]
    if spec.certificate_arn:
        resources.append(Resource("redirect listener", f"{name}:80", RedirectProperties(), spec.tags))
    others = [domain.name for domain in spec.domains if not domain.is_first]
    resources += [Resource("listener certificate", other, Properties(), spec.tags) for other in others]
    return (*always, *resources)


def _domain_resources(spec: EndpointSpec) -> list[Resource[Properties]]:
    """The record of the name comes first: a certificate can take an hour, if its record is created by hand."""
    resources: list[Resource[Properties]] = []
    for domain in spec.domains:
        if domain.has_zone:
            resources.append(Resource("DNS record", domain.name, DnsRecordProperties(), spec.tags))
        resources.append(Resource("certificate", domain.name, CertificateProperties(), spec.tags))
    return resources


def _roles(spec: EndpointSpec) -> list[Resource[RoleProperties]]:
    """The execution role, and the role for shifting traffic, unless existing roles are given."""
    roles: list[Resource[RoleProperties]] = []
    if not spec.execution_role_arn:
        role = role_properties(spec, execution_policy(spec))
        roles.append(Resource("execution role", spec.execution_role_name, role, spec.tags))
    if spec.shifts_traffic and not spec.infrastructure_role_arn:
        role = role_properties(spec, infrastructure_policy(spec))
        roles.append(Resource("infrastructure role", spec.infrastructure_role_name, role, spec.tags))
    return roles


def role_properties(spec: EndpointSpec, policy: Policy) -> RoleProperties:
    return RoleProperties(policy, spec.role_path, spec.permissions_boundary)


def infrastructure_policy(spec: EndpointSpec) -> Policy:
    """Returns the minimal policy for shifting traffic: this package's target groups, and rules with its tag.

    Source: AmazonECSInfrastructureRolePolicyForLoadBalancers, which allows all target groups and rules.
    """
    reads = ["DescribeListeners", "DescribeRules", "DescribeTargetGroups", "DescribeTargetHealth"]
    ours = {f"aws:ResourceTag/{key}": value for key, value in MANAGED_BY.items()}
    statements = [
        allow([f"elasticloadbalancing:{read}" for read in reads], "*"),
        allow(
            ["elasticloadbalancing:DeregisterTargets", "elasticloadbalancing:RegisterTargets"],
            spec.arn("elasticloadbalancing", "targetgroup/mlf-*"),
        ),
        allow(
            ["elasticloadbalancing:ModifyRule"],
            spec.arn("elasticloadbalancing", "listener-rule/app/*"),
            if_equal=ours,
        ),
    ]
    return policy_of(statements)


def execution_policy(spec: EndpointSpec) -> Policy:
    """Returns the minimal policy of an execution role: the endpoint's repository, logs and API keys.

    Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_execution_IAM_role.html; the managed policy
    there allows all repositories and log groups.
    """
    logs = spec.arn("logs", f"log-group:/mlflow-fargate/{spec.name}/*")
    secrets = spec.arn("secretsmanager", f"secret:mlflow-fargate/{spec.name}/*")
    pull = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    statements = [
        allow(["ecr:GetAuthorizationToken"], "*"),
        allow(pull, spec.arn("ecr", f"repository/mlflow-fargate/{spec.name}")),
        allow(["logs:CreateLogStream", "logs:PutLogEvents"], logs),
        allow(["secretsmanager:GetSecretValue"], secrets),
    ]
    return policy_of(statements)

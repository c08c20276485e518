"""Reads the facts and runs the checks."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from mlflow_fargate.aws.endpoint import Endpoint
from mlflow_fargate.aws.reading import doctor_facts
from mlflow_fargate.aws.reading.doctor_facts import known
from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.doctor import checks
from mlflow_fargate.doctor.checks import Finding
from mlflow_fargate.doctor_facts import Caller, Unknown, VcpuQuota
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.model.server import REGISTRY, WEBHOOKS, ask_server
from mlflow_fargate.partitions import arn
from mlflow_fargate.resources import EndpointSpec, cluster_name


def examine(endpoint: Endpoint, config: DeploymentConfig, webhook_url: str | None) -> list[Finding]:
    """Returns every finding, by topic; without credentials, only those that do not need AWS."""
    of_mlflow = examine_mlflow(webhook_url)
    caller = known(lambda: doctor_facts.read_caller(endpoint.session))
    first = checks.check_caller(caller)
    if isinstance(caller, Unknown):
        return [first, *of_mlflow]
    return [
        first,
        *_examine_account(endpoint, caller),
        *_examine_endpoint(endpoint, config),
        *of_mlflow,
    ]


def examine_mlflow(webhook_url: str | None) -> list[Finding]:
    """Returns the findings on the tracking server and its webhooks."""
    return [
        checks.check_tracking_server(ask_server(REGISTRY)),
        checks.check_webhooks(ask_server(WEBHOOKS)),
        checks.check_webhook_url(webhook_url, _addresses(webhook_url)),
    ]


def wanted_actions(caller: Caller, endpoint: str) -> Mapping[str, tuple[str, ...]]:
    """Returns the main actions of a deployment, by resource: enough to find a missing policy."""
    name = cluster_name(endpoint)
    wanted = {
        ("ecs", f"service/{name}/any"): ("ecs:CreateService", "ecs:UpdateService", "ecs:DeleteService"),
        ("ecs", f"task-definition/{name}-any:1"): ("ecs:RegisterTaskDefinition",),
        ("ecr", f"repository/mlflow-fargate/{endpoint}"): ("ecr:PutImage", "ecr:InitiateLayerUpload"),
        ("logs", f"log-group:/mlflow-fargate/{endpoint}/any"): ("logs:CreateLogGroup",),
        ("secretsmanager", f"secret:mlflow-fargate/{endpoint}/any"): ("secretsmanager:CreateSecret",),
        ("elasticloadbalancing", "targetgroup/mlf-any/0123456789abcdef"): ("elasticloadbalancing:CreateTargetGroup",),
        ("iam", f"role/{name}-{caller.region}"): ("iam:CreateRole", "iam:PutRolePolicy"),
    }
    return {
        arn(caller.region, service, caller.account, resource, is_global=service == "iam"): actions
        for (service, resource), actions in wanted.items()
    }


def policy_source(caller: str) -> str | Unknown:
    """Returns the user or role whose policies apply to a caller: the simulator does not accept sessions."""
    partition, account = caller.split(":")[1], caller.split(":")[4]
    if ":assumed-role/" in caller:
        return f"arn:{partition}:iam::{account}:role/{caller.split('/')[1]}"
    if ":iam:" in caller and ":user/" in caller:
        return caller
    return Unknown(f"{caller} is not the ARN of an IAM user or role")


def _examine_account(endpoint: Endpoint, caller: Caller) -> list[Finding]:
    source = policy_source(caller.arn)
    denied = (
        source
        if isinstance(source, Unknown)
        else known(lambda: doctor_facts.read_denied(endpoint.session, source, wanted_actions(caller, endpoint.name)))
    )
    return [checks.check_permissions(denied), checks.check_quota(known(lambda: _quota(endpoint)))]


def _examine_endpoint(endpoint: Endpoint, config: DeploymentConfig) -> list[Finding]:
    session = endpoint.session
    try:
        spec: EndpointSpec | Unknown = known(lambda: endpoint.spec(config))
    except InvalidOption as error:
        return checks.check_network(Unknown(error.message.splitlines()[0]), advice=error.hint)
    if isinstance(spec, Unknown):
        return checks.check_network(spec)
    network, certificate_arn = spec.network, spec.certificate_arn
    role = (spec.execution_role_arn or f"{spec.full_name}-{spec.region}").rpartition("/")[2]
    infrastructure = (spec.infrastructure_role_arn or spec.infrastructure_role_name).rpartition("/")[2]
    is_on_aws = session.target.environment.aws_endpoint_url is None
    exposes_key = is_on_aws and config.auth == "api_key" and not spec.is_https
    certificate = known(lambda: doctor_facts.read_certificate(session, certificate_arn)) if certificate_arn else None
    facts = known(lambda: doctor_facts.read_network(session, network))
    return [
        *(checks.check_network(facts) if isinstance(facts, Unknown) else checks.check_network(*facts)),
        checks.check_certificate(certificate, spec.region, certificate_arn, exposes_key=exposes_key),
        checks.check_role(known(lambda: doctor_facts.read_role(session, role))),
        checks.check_infrastructure_role(known(lambda: doctor_facts.read_role(session, infrastructure))),
        checks.check_scan(known(lambda: doctor_facts.read_scan(session, endpoint.name))),
    ]


def _quota(endpoint: Endpoint) -> VcpuQuota:
    used = sum(status.desired_count * status.settings.cpu / 1024 for status in endpoint.list_statuses())
    return VcpuQuota(doctor_facts.read_vcpu_limit(endpoint.session), used)


def _addresses(url: str | None) -> list[str]:
    host = urlsplit(url).hostname if url else None
    if not host:
        return []
    try:
        return sorted({str(found[4][0]) for found in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)})
    except OSError:
        return []

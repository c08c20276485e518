"""Reads the facts and runs the checks."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import reduce
from urllib.parse import urlsplit

from mlflow_fargate.aws.endpoint import Endpoint
from mlflow_fargate.aws.reading import doctor_facts
from mlflow_fargate.aws.reading.doctor_facts import known
from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.deployment import Alarm, DeploymentStatus
from mlflow_fargate.doctor import checks
from mlflow_fargate.doctor.checks import Finding
from mlflow_fargate.doctor_facts import Caller, Unknown, VcpuQuota
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.model.server import REGISTRY, WEBHOOKS, ask_server
from mlflow_fargate.resources import EndpointSpec, cluster_name
from mlflow_fargate.resources.policies import PolicyStatement, documented_policy

# Option → the statements of docs/iam/deployer-options.json that it needs.
STATEMENTS_OF = {
    "is_scaled": ("Autoscaling", "AlarmsOfAutoscaling", "FirstUseOfAutoscaling"),
    "has_alarms": ("Alarms",),
    "inference_log": ("LookAtLogBucket",),
    "enable_execute_command": ("EcsExec",),
    "shifts_traffic": ("ShiftTraffic", "HandInfrastructureRoleToEcs"),
    "domain": ("LookAtDomains", "RequestCertificates", "TagCertificates", "ReadCertificates", "Certificates",
               "CertificatesOfListeners", "DnsRecords"),
}  # fmt: skip


def examine(endpoint: Endpoint, config: DeploymentConfig, webhook_url: str | None) -> list[Finding]:
    """Returns every finding, by topic; without credentials, only those that do not need AWS."""
    of_mlflow = examine_mlflow(webhook_url)
    caller = known(lambda: doctor_facts.read_caller(endpoint.session))
    first = checks.check_caller(caller)
    if isinstance(caller, Unknown):
        return [first, *of_mlflow]
    return [
        first,
        *_examine_account(endpoint, caller, config),
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


def wanted_statements(
    caller: Caller, endpoint: str, config: DeploymentConfig
) -> list[tuple[PolicyStatement, tuple[str, ...]]]:
    """Returns the statements of docs/iam that a deployment with these options needs, with example ARNs for each.

    Without those on models in S3, whose bucket is not known yet.
    """
    always, optional = (
        documented_policy(name, account=caller.account, region=caller.region, endpoint=endpoint, bucket=None)[
            "Statement"
        ]
        for name in ("deployer", "deployer-options")
    )
    needed = {sid for option, sids in STATEMENTS_OF.items() if getattr(config, option) for sid in sids}
    statements = [*always, *(statement for statement in optional if statement["Sid"] in needed)]
    return [(statement, tuple(_example_arns(statement, caller, endpoint))) for statement in statements]


def _example_arns(statement: PolicyStatement, caller: Caller, endpoint: str) -> Iterator[str]:
    """ARNs of what a deployment on `endpoint` would have: a policy may allow one endpoint only."""
    name = cluster_name(endpoint)
    examples = {
        "cluster/mlflow-fargate-*": f"cluster/{name}",
        "role/mlflow-fargate-*": f"role/{name}-{caller.region}",
        "repository/mlflow-fargate/*": f"repository/mlflow-fargate/{endpoint}",
        "task-definition/mlflow-fargate-*": f"task-definition/{name}_any:1",
        "mlflow-fargate-*": f"{name}/any",
        "mlflow-fargate/*": f"mlflow-fargate/{endpoint}/any",
    }
    resources = statement["Resource"]
    for resource in [resources] if isinstance(resources, str) else resources:
        arn = reduce(lambda known, pair: known.replace(*pair), examples.items(), resource)
        yield arn if arn == "*" else arn.replace("*", "any")


def _examine_account(endpoint: Endpoint, caller: Caller, config: DeploymentConfig) -> list[Finding]:
    wanted = wanted_statements(caller, endpoint.name, config)
    permissions = known(lambda: doctor_facts.read_permissions(endpoint.session, caller.arn, wanted))
    actions = sum(len(statement["Action"]) for statement, _ in wanted)
    return [checks.check_permissions(permissions, actions), checks.check_quota(known(lambda: _quota(endpoint)))]


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
        *(
            checks.check_network(facts)
            if isinstance(facts, Unknown)
            else checks.check_network(*facts, notes=network.notes)
        ),
        checks.check_certificate(certificate, spec.region, certificate_arn, exposes_key=exposes_key),
        checks.check_role(known(lambda: doctor_facts.read_role(session, role))),
        checks.check_infrastructure_role(known(lambda: doctor_facts.read_role(session, infrastructure))),
        checks.check_scan(known(lambda: doctor_facts.read_scan(session, endpoint.name))),
        checks.check_alarms(known(lambda: _ringing(endpoint))),
        *([checks.check_inference_log(_log_fault(endpoint, config), url)] if (url := config.inference_log) else []),
        *(checks.check_variant(one, endpoint.shares(one.settings.variant_of or "")) for one in _variants(endpoint)),
    ]


def _ringing(endpoint: Endpoint) -> dict[str, list[Alarm]]:
    """The alarms in ALARM that end rollouts, by deployment."""
    return {name: endpoint.ringing_alarms(endpoint.alarm_names(name)) for name in endpoint.names()}


def _log_fault(endpoint: Endpoint, config: DeploymentConfig) -> InvalidOption | Unknown | None:
    try:
        return known(lambda: endpoint.check_log_bucket(config))
    except InvalidOption as error:
        return error


def _variants(endpoint: Endpoint) -> list[DeploymentStatus]:
    found = known(lambda: list(endpoint.list_statuses()))
    return [] if isinstance(found, Unknown) else [one for one in found if one.settings.variant_of]


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

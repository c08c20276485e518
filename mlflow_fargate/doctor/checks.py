"""The doctor's checks, from facts alone: OK, FAIL with advice, or SKIP with the reason why the check could not run."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from mlflow_fargate.deployment import Alarm, DeploymentStatus
from mlflow_fargate.doctor_facts import (
    Caller,
    Certificate,
    Permissions,
    Role,
    ScanFindings,
    ServerAnswer,
    Unknown,
    VcpuQuota,
)
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.resources.network import BALANCER_ADDRESSES, NetworkFacts

Verdict = Literal["OK", "FAIL", "SKIP"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's output; `advice` says how to fix a FAIL."""

    topic: str
    name: str
    verdict: Verdict
    said: str
    advice: str | None = None


def check_caller(caller: Caller | Unknown) -> Finding:
    if isinstance(caller, Unknown):
        advice = "run `aws configure` or `aws sso login`, or set AWS_PROFILE"
        return Finding("account", "credentials", "FAIL", caller.reason, advice)
    return Finding("account", "credentials", "OK", f"{caller.arn} in {caller.region}")


def check_permissions(found: Permissions | Unknown, wanted: int = 0) -> Finding:
    """Checks the caller's actions; `wanted` is how many there would have been to check."""
    topic, name = "account", "permissions"
    if isinstance(found, Unknown):
        said = f"could not check the {wanted} actions of docs/iam/deployer.json: {found.reason}"
        return Finding(topic, name, "SKIP", said)
    advice = [f"change {by}: it blocks {action}" for action, by in found.blocked.items()]
    if found.missing:
        statements = json.dumps(list(found.missing))
        advice.append(f"add these statements to the policies of {found.whose}: {statements}")
    if advice:
        denied = [*found.blocked, *(action for statement in found.missing for action in statement["Action"])]
        said = f"{len(denied)} of {found.count} actions are denied: {', '.join(denied)}"
        return Finding(topic, name, "FAIL", said, "; ".join(advice))
    said = f"all {found.count} actions are allowed (not checked: reading the model from S3, and policies of resources)"
    return Finding(topic, name, "OK", said)


def check_quota(quota: VcpuQuota | Unknown, wanted_vcpu: float = 1.0) -> Finding:
    """Checks the quota for an update, which runs old and new tasks side by side and so needs twice as much."""
    if isinstance(quota, Unknown):
        return Finding("account", "Fargate vCPU quota", "SKIP", quota.reason)
    said = f"{quota.used:g} of {quota.limit:g} vCPU used by deployments on this endpoint"
    if quota.limit == 0:
        return Finding(
            "account", "Fargate vCPU quota", "FAIL", "the quota is 0: AWS blocks Fargate in some new accounts",
            "contact AWS Support",
        )  # fmt: skip
    if max(2 * quota.used, quota.used + wanted_vcpu) > quota.limit:
        advice = (
            "raise the quota 'Fargate On-Demand vCPU resource count' (L-3032A538): during an update, both versions run"
        )
        return Finding("account", "Fargate vCPU quota", "FAIL", said, advice)
    return Finding("account", "Fargate vCPU quota", "OK", said)


def check_network(
    network: NetworkFacts | Unknown,
    balancer: NetworkFacts | None = None,
    advice: str | None = None,
    notes: Sequence[str] = (),
) -> list[Finding]:
    """Checks the subnets of the tasks, and of the load balancer if it has others; `advice` if they are unknown.

    `notes`: what choosing the network noted.
    """
    if isinstance(network, Unknown):
        advice = advice or (
            "choose subnets with subnets=subnet-a,subnet-b, or create a default VPC: aws ec2 create-default-vpc"
        )
        return [Finding("network", "VPC and subnets", "FAIL", network.reason, advice)]
    return [_check_zones(balancer or network), _check_addresses(balancer or network), _check_routes(network, notes)]


def _check_zones(network: NetworkFacts) -> Finding:
    zones = sorted({subnet.zone for subnet in network.subnets})
    said = f"{network.vpc}, {len(network.subnets)} subnets in {', '.join(zones)}"
    if len(zones) < 2:
        return Finding(
            "network",
            "VPC and subnets",
            "FAIL",
            said,
            "a load balancer requires subnets in two availability zones; choose others with subnets=",
        )
    return Finding("network", "VPC and subnets", "OK", said)


def _check_addresses(network: NetworkFacts) -> Finding:
    short = [subnet for subnet in network.subnets if subnet.free_addresses < BALANCER_ADDRESSES]
    if short:
        said = ", ".join(f"{subnet.id} has only {subnet.free_addresses}" for subnet in short)
        advice = f"each subnet needs {BALANCER_ADDRESSES} for the load balancer and one per task; change subnets="
        return Finding("network", "free addresses", "FAIL", said, advice)
    least = min((subnet.free_addresses for subnet in network.subnets), default=0)
    return Finding("network", "free addresses", "OK", f"at least {least} in every subnet")


def _check_routes(network: NetworkFacts, notes: Sequence[str]) -> Finding:
    """Reports what is uncertain: choosing the network has already refused tasks that could certainly not start."""
    if unsure := [note.removeprefix("warning: ") for note in notes if note.startswith("warning: ")]:
        return Finding("network", "outbound access", "SKIP", "; ".join(unsure))
    ways = {"internet gateway": "an internet gateway", "NAT": "NAT"}
    said = " and ".join(sorted({ways.get(subnet.way_out, "VPC endpoints") for subnet in network.subnets}))
    return Finding("network", "outbound access", "OK", f"through {said}")


def check_certificate(
    certificate: Certificate | Unknown | None, region: str, arn: str | None, *, exposes_key: bool = False
) -> Finding:
    """`exposes_key`: without HTTPS, callers would send an API key unencrypted."""
    name = "certificate"
    if exposes_key:
        said = "without HTTPS, callers send the API key and their inputs unencrypted"
        advice = "set domain= to your domain, for example domain=churn.example.com; or certificate_arn= and host="
        return Finding("endpoint", name, "FAIL", said, advice)
    if arn is None or certificate is None:
        return Finding("endpoint", name, "SKIP", "not set, so the endpoint uses plain HTTP (for HTTPS, set domain=)")
    there = arn.split(":")[3] if arn.count(":") >= 5 else "?"
    if there != region:
        advice = f"request or import one in {region}: a load balancer only accepts certificates of its own region"
        return Finding("endpoint", name, "FAIL", f"{arn} is in {there}, the endpoint in {region}", advice)
    if isinstance(certificate, Unknown):
        return Finding("endpoint", name, "FAIL", certificate.reason, "check certificate_arn=")
    if certificate.status != "ISSUED":
        advice = "finish its validation in ACM"
        return Finding("endpoint", name, "FAIL", f"{arn} is {certificate.status}, not ISSUED", advice)
    return Finding("endpoint", name, "OK", f"{arn} is ISSUED")


def check_role(role: Role | Unknown | None) -> Finding:
    """Checks the role that ECS uses to start tasks."""
    absent = "none yet; it is created with the endpoint"
    return _check_trust("execution", "ECS tasks", "ecs-tasks.amazonaws.com", role, absent)


def check_infrastructure_role(role: Role | Unknown | None) -> Finding:
    """Checks the role that ECS uses to shift traffic; an endpoint has one only if a deployment requires it."""
    absent = "none yet; it is created by the first deployment with a strategy= other than rolling"
    return _check_trust("infrastructure", "ECS", "ecs.amazonaws.com", role, absent)


def _check_trust(kind: str, whom: str, service: str, role: Role | Unknown | None, absent: str) -> Finding:
    name = f"{kind} role"
    if not isinstance(role, Role):
        return Finding("endpoint", name, "SKIP", role.reason if role else absent)
    if not _is_trusted(role, service):
        advice = f"allow {service} to assume the role, as in docs/iam/{kind}-trust.json"
        return Finding("endpoint", name, "FAIL", f"{role.arn} does not trust {whom}", advice)
    return Finding("endpoint", name, "OK", f"{role.arn} trusts {whom}")


def _is_trusted(role: Role, service: str) -> bool:
    return any(_trusts(statement, service) for statement in role.trust.get("Statement", []))


def _trusts(statement: Any, service: str) -> bool:
    services = statement.get("Principal", {})
    services = services.get("Service", []) if isinstance(services, dict) else []
    services = [services] if isinstance(services, str) else services
    actions = statement.get("Action", [])
    actions = [actions] if isinstance(actions, str) else actions
    return statement.get("Effect") == "Allow" and service in services and "sts:AssumeRole" in actions


def check_scan(scan: ScanFindings | Unknown | None) -> Finding:
    name = "image scan"
    if not isinstance(scan, ScanFindings):
        return Finding("endpoint", name, "SKIP", scan.reason if scan else "no scanned image yet")
    if scan.status not in {"COMPLETE", "ACTIVE"}:
        return Finding("endpoint", name, "SKIP", f"the scan of {scan.digest[:19]} is {scan.status}")
    found = ", ".join(f"{count} {severity}" for severity, count in sorted(scan.counts.items())) or "no findings"
    said = f"{scan.digest[:19]}: {found}"
    if scan.counts.get("CRITICAL"):
        advice = "use a newer base_image= or newer requirements=, and update the deployment"
        return Finding("endpoint", name, "FAIL", said, advice)
    return Finding("endpoint", name, "OK", said)


def check_alarms(ringing: Mapping[str, Sequence[Alarm]] | Unknown) -> Finding:
    """Checks the alarms in ALARM, by deployment: the next rollout would ignore them."""
    if isinstance(ringing, Unknown):
        return Finding("endpoint", "alarms", "SKIP", ringing.reason)
    said = "; ".join(f"{name}: {alarm}" for name, alarms in ringing.items() for alarm in alarms)
    if said:
        advice = "fix the cause first: ECS ignores an alarm that is already in ALARM when a rollout begins"
        return Finding("endpoint", "alarms", "FAIL", said, advice)
    return Finding("endpoint", "alarms", "OK", "no alarm that ends rollouts is in ALARM")


def check_inference_log(found: InvalidOption | Unknown | None, url: str) -> Finding:
    """`found`: what the deployment would be refused with."""
    name = "inference log"
    if isinstance(found, Unknown):
        return Finding("endpoint", name, "SKIP", found.reason)
    if found:
        return Finding("endpoint", name, "FAIL", found.message, found.hint)
    return Finding("endpoint", name, "OK", f"{url}: the bucket is in this region (its own policy was not checked)")


def check_variant(status: DeploymentStatus, shares: Mapping[str, int]) -> Finding:
    """Checks one variant; `shares` of the deployment that it is a variant of, see Endpoint.shares."""
    name, share = f"variant {status.name}", shares.get(status.name, 0)
    said = f"gets {share}% of the requests to '{status.settings.variant_of}'"
    if share and not status.running_count:
        advice = f"mlflow-fargate traffic --name {status.settings.variant_of} {status.name}=0, or start its tasks"
        return Finding("endpoint", name, "FAIL", f"{said} and has no running task: callers get 503", advice)
    return Finding("endpoint", name, "OK", said)


def check_tracking_server(answer: ServerAnswer | None) -> Finding:
    topic, name = "MLflow", "tracking server"
    if answer is None:
        return Finding(topic, name, "SKIP", "MLFLOW_TRACKING_URI is not set; models are read from local files")
    if answer.status is None:
        return Finding(topic, name, "FAIL", f"{answer.url}: {answer.text}", "check MLFLOW_TRACKING_URI and the network")
    if "Invalid Host header" in answer.text:
        host = urlsplit(answer.url).netloc.rpartition("@")[2]
        said = f"{answer.url} rejects its own host name (403 Invalid Host header)"
        return Finding(topic, name, "FAIL", said, f"start it with: mlflow server --allowed-hosts {host}")
    if answer.status in {401, 403}:
        advice = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return Finding(topic, name, "FAIL", f"{answer.url} returned {answer.status}", advice)
    if answer.status != 200:
        said = f"{answer.url} returned {answer.status}: {answer.text[:100]}"
        return Finding(topic, name, "FAIL", said, "check that it is an MLflow server with a model registry")
    return Finding(topic, name, "OK", f"{answer.url} responds and has a model registry")


def check_webhooks(answer: ServerAnswer | None) -> Finding:
    """MLflow supports webhooks only with a database: https://mlflow.org/docs/latest/ml/webhooks/"""
    topic, name = "MLflow", "webhooks"
    if answer is None or answer.status is None:
        return Finding(topic, name, "SKIP", "the tracking server could not be reached")
    if answer.status == 200:
        return Finding(
            topic, name, "OK", "supported by the server for alias changes; stage changes are found by polling"
        )
    if answer.status >= 500:
        advice = (
            "set MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY on the server: without it, stored secrets are lost on a restart"
        )
        return Finding(topic, name, "FAIL", f"the server returned {answer.status}", advice)
    return Finding(
        topic, name, "SKIP", f"not supported by the server ({answer.status}); the webhook service polls instead"
    )


def check_webhook_url(url: str | None, addresses: Sequence[str]) -> Finding:
    """Checks the URL: MLflow sends events only to public https addresses, unless its server allows private ones."""
    topic, name = "MLflow", "webhook address"
    if url is None:
        return Finding(topic, name, "SKIP", "not set; to check one, pass --webhook-url")
    if urlsplit(url).scheme != "https":
        return Finding(topic, name, "FAIL", f"{url} is not https", "use https: MLflow sends events only to https URLs")
    if not addresses:
        return Finding(topic, name, "FAIL", f"{url}: the host name does not resolve", "check the host name")
    private = [address for address in addresses if not ipaddress.ip_address(address).is_global]
    if private:
        advice = (
            "use a public address, set MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true on the server, or let the service poll"
        )
        return Finding(
            topic, name, "FAIL", f"{url} is at {', '.join(private)}: MLflow does not send to private addresses", advice
        )
    return Finding(topic, name, "OK", url)

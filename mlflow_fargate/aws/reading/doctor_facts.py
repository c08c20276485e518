"""Facts about an account for the doctor's checks; reads only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from mlflow_fargate.aws import ecr
from mlflow_fargate.aws.reading.subnets import read_vpc
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.doctor_facts import (
    Caller,
    Certificate,
    Role,
    ScanFindings,
    Unknown,
)
from mlflow_fargate.errors import AwsError
from mlflow_fargate.partitions import arn
from mlflow_fargate.resources import MANAGED_BY, Network
from mlflow_fargate.resources.network import NetworkFacts

Fact = TypeVar("Fact")
# "Fargate On-Demand vCPU resource count"
_FARGATE_VCPU_QUOTA = "L-3032A538"


def known(read: Callable[[], Fact]) -> Fact | Unknown:
    """Returns what `read` returns, or why AWS refused."""
    try:
        return read()
    except AwsError as error:
        return Unknown(error.message.splitlines()[0])


def read_caller(session: AwsSession) -> Caller:
    identity = session.call("sts", "get_caller_identity")
    return Caller(identity["Account"], identity["Arn"], session.region)


def read_denied(session: AwsSession, caller: str, wanted: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns those of the actions (by resource) that the caller's policies deny, with roles within the boundary."""
    denied = []
    boundary = arn(session.region, "iam", session.account, "policy/mlflow-fargate-boundary", is_global=True)
    key = {"ContextKeyName": "iam:PermissionsBoundary", "ContextKeyType": "string", "ContextKeyValues": [boundary]}
    for resource, actions in wanted.items():
        answer = session.call(
            "iam", "simulate_principal_policy",
            PolicySourceArn=caller, ActionNames=list(actions), ResourceArns=[resource], ContextEntries=[key],
        )  # fmt: skip
        results = answer["EvaluationResults"]
        denied += [f"{item['EvalActionName']} on {resource}" for item in results if item["EvalDecision"] != "allowed"]
    return denied


def read_network(session: AwsSession, network: Network) -> tuple[NetworkFacts, NetworkFacts]:
    """Returns the facts about the subnets of the tasks, and about those of the load balancer."""
    facts = read_vpc(session, network.vpc)
    of_tasks, of_balancer = (
        replace(facts, subnets=tuple(subnet for subnet in facts.subnets if subnet.id in chosen))
        for chosen in (network.subnets, network.balancer_subnets)
    )
    return of_tasks, of_balancer


def read_certificate(session: AwsSession, arn: str) -> Certificate:
    return Certificate(arn, session.call("acm", "describe_certificate", CertificateArn=arn)["Certificate"]["Status"])


def read_role(session: AwsSession, name: str) -> Role | None:
    """Returns the role with its trust policy; None if there is no such role."""
    try:
        role = session.call("iam", "get_role", RoleName=name)["Role"]
    except AwsError as error:
        if error.code == "NoSuchEntity":
            return None
        raise
    return Role(role["Arn"], role["AssumeRolePolicyDocument"])


def read_scan(session: AwsSession, endpoint: str) -> ScanFindings | None:
    """Returns the findings for the last image pushed; None if there is no image or no scan."""
    repository = ecr.Repository(session, endpoint, dict(MANAGED_BY))
    digest = repository.newest_image() if repository.observe() else None
    if digest is None:
        return None
    try:
        answer = session.call(
            "ecr", "describe_image_scan_findings", repositoryName=repository.name, imageId={"imageDigest": digest}
        )
    except AwsError as error:
        if error.code in {"ScanNotFoundException", "ImageNotFoundException"}:
            return None
        raise
    counts = answer.get("imageScanFindings", {}).get("findingSeverityCounts", {})
    return ScanFindings(digest, answer["imageScanStatus"]["status"], counts)


def read_vcpu_limit(session: AwsSession) -> float:
    answer = session.call("service-quotas", "get_service_quota", ServiceCode="fargate", QuotaCode=_FARGATE_VCPU_QUOTA)
    return float(answer["Quota"]["Value"])

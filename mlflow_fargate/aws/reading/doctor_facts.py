"""Facts about an account for the doctor's checks; reads only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from mlflow_fargate.aws import ecr
from mlflow_fargate.aws.reading.subnets import read_vpc
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.doctor_facts import (
    Caller,
    Certificate,
    Permissions,
    Role,
    ScanFindings,
    Unknown,
)
from mlflow_fargate.errors import AwsError
from mlflow_fargate.resources import MANAGED_BY, Network
from mlflow_fargate.resources.network import NetworkFacts
from mlflow_fargate.resources.policies import PolicyStatement

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


def read_permissions(
    session: AwsSession, caller: str, wanted: Sequence[tuple[PolicyStatement, Sequence[str]]]
) -> Permissions:
    """Asks IAM's policy simulator about statements that a caller's policies should allow, each for example ARNs.

    An action is allowed if it is for any of them: a statement lists the resources of all its actions.
    Source: https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html
    """
    whose = _policy_source(session, caller)
    missing: list[Mapping[str, Any]] = []
    blocked: dict[str, str] = {}
    for statement, arns in wanted:
        denied = {}
        for item in session.pages(
            "iam", "simulate_principal_policy", "EvaluationResults",
            PolicySourceArn=whose, ActionNames=statement["Action"], ResourceArns=list(arns),
            ContextEntries=_context(statement),
        ):  # fmt: skip
            results = item.get("ResourceSpecificResults") or [{"EvalResourceDecision": item["EvalDecision"]}]
            if all(result["EvalResourceDecision"] != "allowed" for result in results):
                denied[item["EvalActionName"]] = _blocked_by(item)
        blocked |= {action: by for action, by in denied.items() if by}
        if actions := [action for action, by in denied.items() if by is None]:
            missing.append({**statement, "Action": actions})
    return Permissions(whose, sum(len(statement["Action"]) for statement, _ in wanted), tuple(missing), blocked)


def _blocked_by(result: Mapping[str, Any]) -> str | None:
    """What has to change besides the caller's own policy; None if a statement in that is all that is missing."""
    if result["EvalDecision"] == "explicitDeny":
        return "a policy that denies it explicitly"
    if not result.get("OrganizationsDecisionDetail", {}).get("AllowedByOrganizations", True):
        return "a service control policy of your organization"
    if not result.get("PermissionsBoundaryDecisionDetail", {}).get("AllowedByPermissionsBoundary", True):
        return "your permissions boundary"
    return None


def _context(statement: PolicyStatement) -> list[dict[str, Any]]:
    """The condition keys of a statement, with values that fulfill it."""
    values = {key: value for keys in statement.get("Condition", {}).values() for key, value in keys.items()}
    return [
        {
            "ContextKeyName": key,
            "ContextKeyType": "string",
            "ContextKeyValues": [value] if isinstance(value, str) else value[:1],
        }
        for key, value in values.items()
    ]


def _policy_source(session: AwsSession, caller: str) -> str:
    """The user or role whose policies apply to a caller: the simulator takes no sessions, whose ARNs lack the path."""
    account, _, name = caller.partition(":assumed-role/")
    role = name.partition("/")[0]
    if not role:
        return caller
    try:
        found: str = session.call("iam", "get_role", RoleName=role)["Role"]["Arn"]
    except AwsError:
        return f"{account.replace(':sts:', ':iam:')}:role/{role}"
    return found


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
    answer = session.find("iam", "get_role", RoleName=name)
    return Role(answer["Role"]["Arn"], answer["Role"]["AssumeRolePolicyDocument"]) if answer else None


def read_scan(session: AwsSession, endpoint: str) -> ScanFindings | None:
    """Returns the findings for the last image pushed; None if there is no image or no scan."""
    repository = ecr.Repository(session, endpoint, dict(MANAGED_BY))
    digest = repository.newest_image() if repository.observe() else None
    if digest is None:
        return None
    answer = session.find(
        "ecr", "describe_image_scan_findings", repositoryName=repository.name, imageId={"imageDigest": digest}
    )
    if answer is None:
        return None
    counts = answer.get("imageScanFindings", {}).get("findingSeverityCounts", {})
    return ScanFindings(digest, answer["imageScanStatus"]["status"], counts)


def read_vcpu_limit(session: AwsSession) -> float:
    answer = session.call("service-quotas", "get_service_quota", ServiceCode="fargate", QuotaCode=_FARGATE_VCPU_QUOTA)
    return float(answer["Quota"]["Value"])

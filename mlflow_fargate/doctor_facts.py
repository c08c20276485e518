"""Words: the facts that the doctor checks. aws/reading/doctor_facts.py reads them, doctor/checks.py judges them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Unknown:
    """A fact that could not be had, and why: a right that is missing, a service that does not answer."""

    reason: str


@dataclass(frozen=True)
class Caller:
    """Whose credentials these are."""

    account: str
    arn: str
    region: str


@dataclass(frozen=True)
class Subnet:
    """A subnet that tasks would run in."""

    id: str
    zone: str
    free_addresses: int
    way_out: Literal["internet gateway", "NAT", "none"]


@dataclass(frozen=True)
class NetworkFacts:
    """The VPC, its subnets for us, and the AWS services that have an endpoint in it ('ecr.api', 's3', …)."""

    vpc: str
    subnets: tuple[Subnet, ...]
    endpoint_services: frozenset[str]


@dataclass(frozen=True)
class Certificate:
    """A certificate of ACM."""

    arn: str
    status: str  # ISSUED, PENDING_VALIDATION, EXPIRED …


@dataclass(frozen=True)
class Role:
    """A role and who may take it on."""

    arn: str
    trust: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class ScanFindings:
    """What ECR's scan of an image found, by severity; `status` COMPLETE, ACTIVE, IN_PROGRESS, FAILED …"""

    digest: str
    status: str
    counts: Mapping[str, int] = field(hash=False)


@dataclass(frozen=True)
class VcpuQuota:
    """On-demand vCPUs that Fargate runs for the account in the region, and those that deployments of ours use."""

    limit: float
    used: float


@dataclass(frozen=True)
class ServerAnswer:
    """How an HTTP server answered; `status` None: not at all."""

    url: str
    status: int | None
    text: str

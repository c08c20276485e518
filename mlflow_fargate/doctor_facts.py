"""Facts for the doctor's checks. aws/reading/doctor_facts.py reads them, doctor/checks.py evaluates them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Unknown:
    """A fact that could not be read, and why: a missing permission, a service that does not answer."""

    reason: str


@dataclass(frozen=True)
class Caller:
    """The identity of the credentials."""

    account: str
    arn: str
    region: str


@dataclass(frozen=True)
class Permissions:
    """What IAM's policy simulator said about a caller's actions.

    `missing`: statements that the caller's policies lack. `blocked`: actions that an explicit deny, a permissions
    boundary or a service control policy denies, each with the one that does.
    """

    whose: str
    count: int
    missing: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    blocked: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Certificate:
    """A certificate in ACM."""

    arn: str
    status: str  # ISSUED, PENDING_VALIDATION, EXPIRED …


@dataclass(frozen=True)
class Role:
    """A role and its trust policy."""

    arn: str
    trust: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class ScanFindings:
    """Findings of ECR's image scan, by severity; `status` COMPLETE, ACTIVE, IN_PROGRESS, FAILED …"""

    digest: str
    status: str
    counts: Mapping[str, int] = field(hash=False)


@dataclass(frozen=True)
class VcpuQuota:
    """The quota of on-demand Fargate vCPUs in the region, and those that the endpoint's deployments use."""

    limit: float
    used: float


@dataclass(frozen=True)
class ServerAnswer:
    """The response of an HTTP server; `status` None: no response."""

    url: str
    status: int | None
    text: str

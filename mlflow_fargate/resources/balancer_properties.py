"""The properties of an endpoint's load balancer, its open ports, and the domain that leads to it; see properties.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from mlflow_fargate.plan import Properties

IDLE_TIMEOUT = "idle_timeout.timeout_seconds"


@dataclass(frozen=True)
class LoadBalancerPorts(Properties):
    option_names: ClassVar[Mapping[str, str]] = {"cidrs": "allowed_cidrs"}

    open_ports: tuple[int, ...]
    cidrs: tuple[str, ...] | None = None  # sorted; None: as they are; of a new group, all addresses
    found_cidrs: tuple[str, ...] = field(default=(), compare=False)  # never decided


@dataclass(frozen=True)
class LoadBalancerProperties(Properties):
    """Attributes that are not named here (access logs, deletion protection) stay as they are."""

    option_names: ClassVar[Mapping[str, str]] = {"subnets": "load_balancer_subnets", "attributes.": ""}

    subnets: tuple[str, ...]
    attributes: Mapping[str, str | None]
    scheme: str
    is_protected: bool = field(default=False, compare=False)  # from deletion; never decided


@dataclass(frozen=True)
class CertificateProperties(Properties):
    status: str = "ISSUED"


@dataclass(frozen=True)
class RedirectProperties(Properties):
    port_80: str = "redirects to HTTPS"


@dataclass(frozen=True)
class DnsRecordProperties(Properties):
    target: str = "the load balancer"

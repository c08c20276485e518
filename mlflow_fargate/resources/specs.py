"""Specs, from which the desired resources are derived: an endpoint, a deployment on it, the webhook service."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any

from mlflow_fargate.config import OF_THE_CALL, OF_THE_SERVICE, DeploymentConfig
from mlflow_fargate.deployment import variant_name
from mlflow_fargate.partitions import arn
from mlflow_fargate.plan import TypeName
from mlflow_fargate.resolved_model import Provenance
from mlflow_fargate.resources.names import (
    DEPLOYMENT_TAG,
    ENDPOINT_TAG,
    MANAGED_BY,
    VARIANT_TAG,
    cluster_name,
    log_group_name,
)

_SHUTDOWN_SECONDS = 10  # of the webhook service, after the rollouts that it waits for


@dataclass(frozen=True)
class Network:
    """Where the load balancer and the tasks run; network.py decides it."""

    vpc: str
    subnets: tuple[str, ...]  # of the tasks
    adopted: Mapping[TypeName, str] = field(default_factory=dict, hash=False)  # ARNs of existing resources
    balancer_subnets: tuple[str, ...] = ()
    assigns_public_ip: bool = True
    notes: tuple[str, ...] = ()  # what was decided, and warnings, as a user reads them


OWN_CERTIFICATE = "the domain's"  # the listener's certificate is the one that is requested for the domain


@dataclass(frozen=True)
class Domain:
    """A domain with a certificate of its own."""

    name: str
    has_zone: bool  # its public hosted zone is in the account
    is_first: bool  # its certificate is the listener's default; others are chosen by the name that callers use


@dataclass(frozen=True)
class EndpointSpec:
    """A desired endpoint: the cluster and load balancer that deployments share."""

    name: str
    network: Network
    region: str
    account: str
    _: KW_ONLY
    scheme: str = "internet-facing"
    allowed_cidrs: tuple[str, ...] | None = None  # None: as they are; of a new endpoint, all addresses
    certificate_arn: str | None = None  # or OWN_CERTIFICATE
    domains: tuple[Domain, ...] = ()
    idle_timeout_seconds: int = 60  # at least
    is_https: bool = False  # how callers reach it
    execution_role_arn: str | None = None
    permissions_boundary: str | None = None
    role_path: str = "/"
    infrastructure_role_arn: str | None = None
    shifts_traffic: bool = False  # if a deployment does, ECS needs a role for that

    def arn(self, service: str, resource: str, *, is_global: bool = False) -> str:
        """Returns the ARN of a resource of the account in the region; `is_global`: of IAM."""
        return arn(self.region, service, self.account, resource, is_global=is_global)

    @property
    def full_name(self) -> str:
        """The name of its cluster, load balancer, security groups and role; at most 31 characters."""
        return cluster_name(self.name)

    @property
    def execution_role_name(self) -> str:
        """The name of the generated role. Roles are global, so the name contains the region."""
        return f"{self.full_name}-{self.region}"

    @property
    def infrastructure_role_name(self) -> str:
        """The name of the role that ECS uses to shift traffic; at most 61 of the 64 characters that IAM allows."""
        return f"{self.execution_role_name}-infrastructure"

    @property
    def tags(self) -> dict[str, str]:
        return {**MANAGED_BY, ENDPOINT_TAG: self.name}


@dataclass(frozen=True)
class ServiceSpec:
    """A service behind an endpoint's path, and the names of its resources."""

    name: str
    endpoint: EndpointSpec
    config: DeploymentConfig
    image: str  # by digest

    @property
    def family(self) -> str:
        """The family of task definitions. Endpoint names have no '_', so `a` with `b-c` differs from `a-b` with `c`."""
        return f"{self.endpoint.full_name}_{self.name}"

    @property
    def public_name(self) -> str:
        """The deployment at whose path, and with whose API key, callers reach it: of a variant, the one it is of."""
        return self.config.variant_of or self.name

    @property
    def variant(self) -> str | None:
        """Its name among the variants of its deployment; None: it is not one."""
        return variant_name(self.name, self.config.variant_of)

    @property
    def log_group(self) -> str:
        return log_group_name(self.endpoint.name, self.name)

    @property
    def secret_name(self) -> str:
        return f"mlflow-fargate/{self.endpoint.name}/{self.public_name}"

    @property
    def tags(self) -> dict[str, str]:
        of_variant = {VARIANT_TAG: self.config.variant_of} if self.config.variant_of else {}
        return {**self.config.tags, **self.endpoint.tags, DEPLOYMENT_TAG: self.name, **of_variant}

    @property
    def settings(self) -> dict[str, Any]:
        """The options that were set, without those of the command and the service, which require no new revision."""
        named = self.config.named
        return {key: named[key] for key in named if key not in OF_THE_CALL | OF_THE_SERVICE}


@dataclass(frozen=True)
class DeploymentSpec(ServiceSpec):
    """A desired deployment: a model's image behind an endpoint's path."""

    provenance: Provenance
    follow: str
    keeps_count: bool = False  # the number of tasks was not named: it stays as it is when the change is made

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables for the template in the image (service_template/)."""
        return {
            "PATH_PREFIX": f"/{self.public_name}",
            **({"MODEL_VARIANT": self.variant} if self.variant else {}),
            "BENTOML_PORT": str(self.config.port),
            # The container's cgroup does not show the limits of the task; the service would use all of the host.
            "TASK_CPU_UNITS": str(self.config.cpu),
            "TASK_MEMORY_MIB": str(self.config.memory_mib),
            "STOP_TIMEOUT_SECONDS": str(self.config.stop_timeout_seconds),
            **self._log_environment,
        }

    @property
    def _log_environment(self) -> dict[str, str]:
        """How the service records requests; without a record nothing, so that earlier revisions stay as they are."""
        config = self.config
        if config.inference_log is None:
            return {}
        settings = {
            "url": config.inference_log,
            "region": self.endpoint.region,
            "endpoint": self.endpoint.name,
            "deployment": self.name,
            "sampling_fraction": config.inference_log_sampling_fraction,
            "max_body_kb": config.inference_log_max_body,
            "drop": config.inference_log_drop,
            "hash": config.inference_log_hash,
        }
        return {"INFERENCE_LOG": json.dumps(settings)}

    @property
    def label(self) -> str:
        """What is deployed and with which options, as one JSON text in a Docker label of the container.

        Not in tags: these allow 256 characters without quotes or braces, and are written by a separate call, so they
        would be wrong after a rollback. What is recorded on the service (what it follows, the number of tasks) is not
        included, because it can change without a new revision.
        """
        provenance = asdict(self.provenance)
        for later in ("runtime", "registered_ms"):  # without them, as earlier releases wrote it
            if provenance[later] is None:
                del provenance[later]
        return json.dumps({"provenance": provenance, "settings": self.settings}, sort_keys=True)


@dataclass(frozen=True)
class WebhookSpec(ServiceSpec):
    """A desired webhook service: an image of this package, behind an endpoint's path like a deployment."""

    target: str  # URI that the service uses for the deployments
    artifact_buckets: tuple[str, ...] = ()  # buckets from which its generated role can read models

    follow = "pinned"
    keeps_count = False

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of the service; its time to stop is what ECS allows, less a margin."""
        return {
            "FARGATE_TARGET": self.target,
            "FARGATE_WEBHOOK_BEHIND_PROXY": "true",
            "FARGATE_WEBHOOK_HOST": "0.0.0.0",  # noqa: S104  # only the load balancer reaches a task
            "FARGATE_WEBHOOK_PORT": str(self.config.port),
            "FARGATE_WEBHOOK_PREFIX": f"/{self.name}",
            "FARGATE_WEBHOOK_STOP_SECONDS": str(max(0, self.config.stop_timeout_seconds - _SHUTDOWN_SECONDS)),
        }

    @property
    def role_name(self) -> str:
        """The name of its generated role. Endpoint names contain no '_', so no other endpoint's role has this name."""
        return f"{self.endpoint.full_name}_webhook-{self.endpoint.region}"

    @property
    def label(self) -> str:
        """Its options, in the format of a deployment's label."""
        return json.dumps({"artifact_buckets": self.artifact_buckets, "settings": self.settings}, sort_keys=True)


def target_group_of(spec: ServiceSpec) -> str:
    """Returns the name of the target group for the tasks: the deployment's own, or an existing one."""
    given = spec.endpoint.network.adopted.get("target group")
    return given.split("/")[1] if given else target_group_name(spec)


def target_group_name(spec: ServiceSpec) -> str:
    """Returns at most 32 letters, digits and hyphens; differs by port and VPC, which are immutable."""
    unique = f"{spec.endpoint.name}/{spec.name}/{spec.config.port}/{spec.endpoint.network.vpc}"
    return _group_name(spec, unique)


def alternate_group_name(spec: ServiceSpec) -> str:
    """Returns the name of the second target group, for strategies that shift traffic between the two."""
    unique = f"{spec.endpoint.name}/{spec.name}/{spec.config.port}/{spec.endpoint.network.vpc}/alternate"
    return _group_name(spec, unique)


def _group_name(spec: ServiceSpec, unique: str) -> str:
    readable = "".join(letter if letter.isalnum() else "-" for letter in spec.name)[:18].strip("-")
    return f"mlf-{readable}-{hashlib.sha256(unique.encode()).hexdigest()[:8]}"

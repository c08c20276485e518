"""What is wanted, before it is taken apart into resources: an endpoint, a deployment on it, the webhook service."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any

from mlflow_fargate.config import OF_THE_CALL, OF_THE_SERVICE, DeploymentConfig
from mlflow_fargate.plan import TypeName
from mlflow_fargate.resolved_model import Provenance
from mlflow_fargate.resources.names import DEPLOYMENT_TAG, ENDPOINT_TAG, MANAGED_BY, cluster_name, log_group_name

_GOODBYE_SECONDS = 10  # of the webhook service, after the rollouts that it waits for


@dataclass(frozen=True)
class Network:
    """Where the load balancer and the tasks live."""

    vpc: str
    subnets: tuple[str, ...]
    adopted: Mapping[TypeName, str] = field(default_factory=dict, hash=False)  # identifiers of what others created


@dataclass(frozen=True)
class EndpointSpec:
    """A wanted endpoint: one front door that deployments share."""

    name: str
    network: Network
    region: str
    account: str
    _: KW_ONLY
    certificate_arn: str | None = None
    execution_role_arn: str | None = None
    permissions_boundary: str | None = None
    role_path: str = "/"
    infrastructure_role_arn: str | None = None
    shifts_traffic: bool = False  # a deployment on it does, so ECS needs a role for that

    @property
    def full_name(self) -> str:
        """The name of its cluster, load balancer, security groups and role; 31 characters at most."""
        return cluster_name(self.name)

    @property
    def execution_role_name(self) -> str:
        """The name of the role that is made where none is given; roles know no region, so it is part of the name."""
        return f"{self.full_name}-{self.region}"

    @property
    def infrastructure_role_name(self) -> str:
        """The name of the role with which ECS shifts traffic; at most 61 of the 64 characters that IAM allows."""
        return f"{self.execution_role_name}-infrastructure"

    @property
    def tags(self) -> dict[str, str]:
        return {**MANAGED_BY, ENDPOINT_TAG: self.name}


@dataclass(frozen=True)
class ServiceSpec:
    """What runs behind an endpoint's path: the names of it."""

    name: str
    endpoint: EndpointSpec
    config: DeploymentConfig
    image: str  # by digest

    @property
    def family(self) -> str:
        """The task definitions' name. No endpoint has a '_' in its name, so `a` with `b-c` is not `a-b` with `c`."""
        return f"{self.endpoint.full_name}_{self.name}"

    @property
    def log_group(self) -> str:
        return log_group_name(self.endpoint.name, self.name)

    @property
    def secret_name(self) -> str:
        return f"mlflow-fargate/{self.endpoint.name}/{self.name}"

    @property
    def tags(self) -> dict[str, str]:
        return {**self.config.tags, **self.endpoint.tags, DEPLOYMENT_TAG: self.name}

    @property
    def settings(self) -> dict[str, Any]:
        """The options that were named, without those of the call, and of the service: they need no other revision."""
        named = self.config.named
        return {key: named[key] for key in named if key not in OF_THE_CALL | OF_THE_SERVICE}


@dataclass(frozen=True)
class DeploymentSpec(ServiceSpec):
    """A wanted deployment: a model's image behind an endpoint's path."""

    provenance: Provenance
    follow: str

    @property
    def environment(self) -> dict[str, str]:
        """What the template in the image (service_template/) is told."""
        return {
            "PATH_PREFIX": f"/{self.name}",
            "BENTOML_PORT": str(self.config.port),
            # The task's limit is not the container's own cgroup's: without a word it would count Fargate's cores.
            "TASK_CPU_UNITS": str(self.config.cpu),
            "STOP_TIMEOUT_SECONDS": str(self.config.stop_timeout_seconds),
        }

    @property
    def label(self) -> str:
        """What is deployed and how, as one JSON text that stands on the container.

        A docker label, not tags: tags take 256 characters without quotes or braces, and are written by another call
        than the one that moves the service, so that they would lie after a rollback. What the service itself says
        (what it follows, how many tasks run) is left out: it may change without another revision.
        """
        provenance = asdict(self.provenance)
        if self.provenance.runtime is None:  # as it was written before there was a choice
            del provenance["runtime"]
        return json.dumps({"provenance": provenance, "settings": self.settings}, sort_keys=True)


@dataclass(frozen=True)
class WebhookSpec(ServiceSpec):
    """A wanted webhook service: this package's own image, behind an endpoint's path as a deployment is."""

    target: str  # URI by which the service itself finds the deployments
    artifact_buckets: tuple[str, ...] = ()  # what the role that is made for it may read models from

    follow = "pinned"

    @property
    def environment(self) -> dict[str, str]:
        """Where the service listens and what it keeps; a stop waits for it as long as ECS lets it."""
        return {
            "FARGATE_TARGET": self.target,
            "FARGATE_WEBHOOK_HOST": "0.0.0.0",  # noqa: S104  # only the load balancer reaches a task
            "FARGATE_WEBHOOK_PORT": str(self.config.port),
            "FARGATE_WEBHOOK_PREFIX": f"/{self.name}",
            "FARGATE_WEBHOOK_STOP_SECONDS": str(max(0, self.config.stop_timeout_seconds - _GOODBYE_SECONDS)),
        }

    @property
    def role_name(self) -> str:
        """The role that is made for it. No endpoint has a '_' in its name, so no other endpoint's role is called so."""
        return f"{self.endpoint.full_name}_webhook-{self.endpoint.region}"

    @property
    def label(self) -> str:
        """How it is deployed, as a deployment's label says it."""
        return json.dumps({"artifact_buckets": self.artifact_buckets, "settings": self.settings}, sort_keys=True)


def target_group_of(spec: ServiceSpec) -> str:
    """Name of the target group that the tasks are registered in: the deployment's own, or the one that was given."""
    given = spec.endpoint.network.adopted.get("target group")
    return given.split("/")[1] if given else target_group_name(spec)


def target_group_name(spec: ServiceSpec) -> str:
    """At most 32 letters, digits and hyphens; another port or VPC is another target group (both are immutable)."""
    unique = f"{spec.endpoint.name}/{spec.name}/{spec.config.port}/{spec.endpoint.network.vpc}"
    return _group_name(spec, unique)


def alternate_group_name(spec: ServiceSpec) -> str:
    """The second target group, for strategies that shift traffic: versions take turns between the two."""
    unique = f"{spec.endpoint.name}/{spec.name}/{spec.config.port}/{spec.endpoint.network.vpc}/alternate"
    return _group_name(spec, unique)


def _group_name(spec: ServiceSpec, unique: str) -> str:
    readable = "".join(letter if letter.isalnum() else "-" for letter in spec.name)[:18].strip("-")
    return f"mlf-{readable}-{hashlib.sha256(unique.encode()).hexdigest()[:8]}"

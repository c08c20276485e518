"""What is wanted, before it is taken apart into resources: an endpoint, a deployment on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from mlflow_fargate.config import OF_THE_CALL, OF_THE_SERVICE, DeploymentConfig
from mlflow_fargate.deployment import Provenance
from mlflow_fargate.resources.names import DEPLOYMENT_TAG, ENDPOINT_TAG, MANAGED_BY, log_group_name


@dataclass(frozen=True)
class Network:
    """Where the load balancer and the tasks live."""

    vpc: str
    subnets: tuple[str, ...]
    adopted: Mapping[str, str] = field(default_factory=dict, hash=False)  # kind → identifier of what is not made here


@dataclass(frozen=True)
class EndpointSpec:
    """A wanted endpoint: one front door that deployments share."""

    name: str
    network: Network
    region: str
    account: str
    certificate_arn: str | None = None
    execution_role_arn: str | None = None
    permissions_boundary: str | None = None
    role_path: str = "/"

    @property
    def full_name(self) -> str:
        """The name of its cluster, load balancer, security groups and role; 31 characters at most."""
        return f"mlflow-fargate-{self.name}"

    @property
    def tags(self) -> dict[str, str]:
        return {**MANAGED_BY, ENDPOINT_TAG: self.name}


@dataclass(frozen=True)
class DeploymentSpec:
    """A wanted deployment: a model's image behind an endpoint's path."""

    name: str
    endpoint: EndpointSpec
    config: DeploymentConfig
    image: str  # by digest
    provenance: Provenance
    follow: str

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
    def label(self) -> str:
        """What is deployed and how, as one JSON text that stands on the container.

        A docker label, not tags: tags take 256 characters without quotes or braces, and are written by another call
        than the one that moves the service, so that they would lie after a rollback. What the service itself says
        (what it follows, how many tasks run) is left out: it may change without another revision.
        """
        named = self.config.named
        settings = {key: named[key] for key in named if key not in OF_THE_CALL | OF_THE_SERVICE}
        provenance = asdict(self.provenance)
        if self.provenance.runtime is None:  # as it was written before there was a choice
            del provenance["runtime"]
        return json.dumps({"provenance": provenance, "settings": settings}, sort_keys=True)


def target_group_of(spec: DeploymentSpec) -> str:
    """Name of the target group that the tasks are registered in: the deployment's own, or the one that was given."""
    given = spec.endpoint.network.adopted.get("target group")
    return given.split("/")[1] if given else target_group_name(spec)


def target_group_name(spec: DeploymentSpec) -> str:
    """At most 32 letters, digits and hyphens; another port or VPC is another target group (both are immutable)."""
    unique = f"{spec.endpoint.name}/{spec.name}/{spec.config.port}/{spec.endpoint.network.vpc}"
    readable = "".join(letter if letter.isalnum() else "-" for letter in spec.name)[:18].strip("-")
    return f"mlf-{readable}-{hashlib.sha256(unique.encode()).hexdigest()[:8]}"

"""The interface to AWS: an account that observes what exists and applies a plan to it.

The other modules do the work: endpoint.py for one endpoint, resource_types/ for resources, reading/ for what users see.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from mlflow_fargate.aws import ecr
from mlflow_fargate.aws.endpoint import Endpoint
from mlflow_fargate.aws.reading import orphans, status
from mlflow_fargate.aws.resource_types.catalog import ResourceTypes, ServiceName
from mlflow_fargate.aws.s3 import S3Artifacts
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.deployment import Orphan, RequestedRollout
from mlflow_fargate.plan import Found, Plan, Properties, Resource, TypeName
from mlflow_fargate.progress import Progress
from mlflow_fargate.resources import Network
from mlflow_fargate.target import Target


class Account:
    """The AWS account of a target."""

    def __init__(
        self,
        target: Target,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.session = AwsSession(target)
        self._clock = clock
        self._sleep = sleep
        self._resource_types = ResourceTypes(self.session, clock, sleep)

    @property
    def region(self) -> str:
        return self.session.region

    def endpoint(self, name: str) -> Endpoint:
        """Returns the endpoint of that name, whether it exists or not."""
        return Endpoint(self.session, name, self._clock, self._sleep)

    def endpoints(self) -> Iterator[dict[str, str]]:
        """Yields name, URL and cluster of each endpoint that this package created in the region."""
        return status.read_endpoints(self.session)

    def orphans(self) -> Iterator[Orphan]:
        """Yields what is left of deployments without a service, on any endpoint in the region."""
        return orphans.find_orphans(self.session)

    def stack(self, name: str) -> tuple[str, dict[str, str]] | None:
        """Returns the status and the outputs of a CloudFormation stack; None if it does not exist."""
        found = self.session.find("cloudformation", "describe_stacks", StackName=name)
        if found is None:
            return None
        stack = found["Stacks"][0]
        return stack["StackStatus"], {one["OutputKey"]: one["OutputValue"] for one in stack.get("Outputs", ())}

    def registry_login(self) -> tuple[str, str, str]:
        """Returns (registry address, user, password) to push with."""
        return ecr.login(self.session)

    def artifacts(self) -> S3Artifacts:
        """Returns MLflow's artifacts in S3, read with this account's credentials."""
        return S3Artifacts(self.session.artifacts_client())

    def read_api_key(self, secret: str) -> str:
        """Returns the API key that callers of a deployment send."""
        return self._resource_types.api_key.read(secret)[0][0]

    def read_api_keys(self, secret: str) -> tuple[list[str], datetime]:
        """Returns the valid keys, the one to send first, and when they were written."""
        return self._resource_types.api_key.read(secret)

    def write_api_keys(self, secret: str, keys: Sequence[str]) -> None:
        """Sets the valid keys; tasks that start from then on accept them."""
        self._resource_types.api_key.write(secret, keys)

    def observe(
        self, resources: Sequence[Resource[Properties]], network: Network
    ) -> dict[tuple[TypeName, str], Found[Properties]]:
        """Returns those of `resources` (in order of dependency) that exist."""
        return self._resource_types.observe(resources, network)

    def apply(
        self, plan: Plan, network: Network, progress: Progress, deleted: ServiceName | None = None
    ) -> RequestedRollout | None:
        """Applies the plan in order and returns the rollout that ECS answered with; see ResourceTypes.apply."""
        # Its own, because threads share an account, and each reports to its own progress.
        return ResourceTypes(self.session, self._clock, self._sleep).apply(plan, network, progress, deleted)

    def find_endpoint(
        self, resources: Sequence[Resource[Properties]], network: Network
    ) -> list[tuple[TypeName, str, Found[Properties]]]:
        """Returns the existing resources of an endpoint, in order of dependency."""
        return [(*place, found) for place, found in self.observe(resources, network).items()]

    def find_deployment(
        self, endpoint: Sequence[Resource[Properties]], deployment: Sequence[Resource[Properties]], network: Network
    ) -> list[tuple[TypeName, str, Found[Properties]]]:
        """Returns the existing resources of a deployment, in order of dependency, for all options it may have had."""
        return self._resource_types.find_deployment(endpoint, deployment, network)

"""The one face of AWS to the story: an account that observes what is there and applies a plan to it.

What it is asked is answered by the rooms beside it: resource_types/ for resources, the others for what users read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone

from mlflow_fargate.aws import ecr, execute_command
from mlflow_fargate.aws.execute_command import RunningTask
from mlflow_fargate.aws.reading import history, metrics, orphans, retention, status
from mlflow_fargate.aws.resource_types import logs
from mlflow_fargate.aws.resource_types.catalog import ResourceTypes
from mlflow_fargate.aws.resource_types.existing_load_balancer import find_existing_load_balancer
from mlflow_fargate.aws.resource_types.load_balancer import (
    find_load_balancer,
    listener_certificate,
)
from mlflow_fargate.aws.resource_types.network import find_endpoint_vpc, find_network
from mlflow_fargate.aws.resource_types.service import describe_service, primary_deployment
from mlflow_fargate.aws.resource_types.strategy import read_strategy, refusal_of
from mlflow_fargate.aws.rollouts.watch import RolloutWatch
from mlflow_fargate.aws.rollouts.watch_shift import ShiftWatch, TestGreen
from mlflow_fargate.aws.s3 import S3Artifacts
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.config import DeploymentConfig, parse_config
from mlflow_fargate.deployment import (
    DeploymentStatus,
    LogLine,
    Orphan,
    Revision,
    ServiceEvent,
    TaskStatus,
    Traffic,
    WebhookStatus,
)
from mlflow_fargate.errors import DeploymentNotFound
from mlflow_fargate.plan import Found, Plan, Properties, Resource, TypeName
from mlflow_fargate.progress import Progress
from mlflow_fargate.resources import ENDPOINT_TAG, MANAGED_BY, EndpointSpec, Network, log_group_name
from mlflow_fargate.target import Target


class Account:
    """AWS at a target, seen through one endpoint."""

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

    def endpoint_spec(self, name: str, config: DeploymentConfig) -> EndpointSpec:
        """The endpoint as it is, or as `config` wants a new one: by default in the account's default VPC."""
        existing = find_existing_load_balancer(self.session, config)
        balancer = find_load_balancer(self.session, f"mlflow-fargate-{name}")
        certificate = None if existing else config.certificate_arn
        if existing:
            network = Network(existing.vpc, config.subnets or existing.subnets, existing.identifiers)
        elif balancer is None or config.subnets:
            network = find_network(self.session, config.vpc, config.subnets)
        else:
            subnets = sorted(zone["SubnetId"] for zone in balancer["AvailabilityZones"])
            network = Network(vpc=balancer["VpcId"], subnets=tuple(subnets))
            certificate = certificate or listener_certificate(self.session, balancer["LoadBalancerArn"])
        return EndpointSpec(
            name,
            network,
            self.session.region,
            self.session.account,
            certificate_arn=certificate,
            execution_role_arn=config.execution_role_arn,
            permissions_boundary=config.permissions_boundary,
            role_path=config.role_path,
            infrastructure_role_arn=config.infrastructure_role_arn,
            shifts_traffic=config.shifts_traffic,
        )

    def standing_endpoint(self, name: str) -> EndpointSpec:
        """The endpoint as a deletion looks for it: where any of it stands, also when the default VPC is another."""
        if find_load_balancer(self.session, f"mlflow-fargate-{name}"):
            return replace(self.endpoint_spec(name, parse_config(None)), shifts_traffic=True)
        vpc = find_endpoint_vpc(self.session, {**MANAGED_BY, ENDPOINT_TAG: name})
        network = Network(vpc or "none", ())
        return EndpointSpec(name, network, self.session.region, self.session.account, shifts_traffic=True)

    def repository(self, endpoint: str) -> ecr.Repository:
        """The endpoint's image repository."""
        return ecr.Repository(self.session, endpoint, {**MANAGED_BY, ENDPOINT_TAG: endpoint})

    def registry_login(self) -> tuple[str, str, str]:
        """(registry address, user, password) to push with."""
        return ecr.login(self.session)

    def artifacts(self) -> S3Artifacts:
        """MLflow's artifacts in S3, read with the credentials of this account."""
        return S3Artifacts(self.session.artifacts_client())

    def observe(
        self, resources: Sequence[Resource[Properties]], network: Network
    ) -> dict[tuple[TypeName, str], Found[Properties]]:
        """What is there of `resources` (in order of dependency)."""
        return self._resource_types.observe(resources, network)

    def apply(self, plan: Plan, network: Network, progress: Progress) -> None:
        """Makes the plan's changes in its order; ForeignResource before any of them if one would touch another's."""
        self._resource_types.apply(plan, network, progress)

    def find_endpoint(
        self, resources: Sequence[Resource[Properties]], network: Network
    ) -> list[tuple[TypeName, str, Found[Properties]]]:
        """What is there of an endpoint, in order of dependency."""
        return [(*place, found) for place, found in self.observe(resources, network).items()]

    def find_deployment(
        self, endpoint: Sequence[Resource[Properties]], deployment: Sequence[Resource[Properties]], network: Network
    ) -> list[tuple[TypeName, str, Found[Properties]]]:
        """What is there of a deployment, in order of dependency, whatever its options were and wherever it was left."""
        return self._resource_types.find_deployment(endpoint, deployment, network)

    def status(self, endpoint: str, name: str) -> DeploymentStatus | None:
        """The deployment as AWS shows it; None when there is none of ours."""
        return status.read(self.session, endpoint, name)

    def list_statuses(self, endpoint: str) -> Iterator[DeploymentStatus]:
        """Every deployment of ours on the endpoint."""
        return status.read_all(self.session, endpoint)

    def webhook_status(self, endpoint: str) -> WebhookStatus | None:
        """The webhook service of an endpoint as AWS shows it; None when there is none."""
        return status.read_webhook(self.session, endpoint)

    def endpoints(self) -> Iterator[dict[str, str]]:
        """Name and URL of each endpoint of ours in the region."""
        return status.read_endpoints(self.session)

    def revisions(self, endpoint: str, name: str, limit: int = 20) -> list[Revision]:
        """The newest revisions of a deployment, newest first."""
        return history.read_revisions(self.session, f"mlflow-fargate-{endpoint}", name, limit)

    def was_rolled_out(self, endpoint: str, name: str) -> bool:
        """Whether any rollout of a deployment ever completed, whatever the newest is doing; see history.py."""
        return history.was_rolled_out(self.session, f"mlflow-fargate-{endpoint}", name)

    def events(self, endpoint: str, name: str) -> list[ServiceEvent]:
        """What ECS told of a deployment, oldest first."""
        return history.read_events(self.session, f"mlflow-fargate-{endpoint}", name)

    def tasks(self, endpoint: str, name: str) -> list[TaskStatus]:
        """The tasks of a deployment, those that stopped lately included."""
        return history.read_tasks(self.session, f"mlflow-fargate-{endpoint}", name)

    def traffic(self, endpoint: str, name: str) -> list[Traffic]:
        """Requests, latency and errors of a deployment in the last hours; empty where CloudWatch has none."""
        return metrics.read_traffic(self.session, endpoint, name, datetime.now(timezone.utc))

    def log_lines(
        self, endpoint: str, name: str, since_milliseconds: int, task: str | None = None
    ) -> Iterator[LogLine]:
        """What the tasks of a deployment (or one of them) wrote from a moment on."""
        return logs.lines_since(self.session, log_group_name(endpoint, name), since_milliseconds, task)

    def runnable_task(self, endpoint: str, name: str, task: str | None) -> RunningTask:
        """A running task of a deployment that can run commands; see execute_command.choose_task."""
        return execute_command.choose_task(self.session, f"mlflow-fargate-{endpoint}", name, task)

    def open_command(self, task: RunningTask, command: str, profile: str | None) -> list[str]:
        """Opens a session that runs `command` in the task; the arguments for AWS's plugin to follow it."""
        return execute_command.open_session(self.session, task, command, profile)

    def retained(self, endpoint: str, name: str) -> frozenset[str]:
        """What a deletion of this deployment left on purpose: images, logs."""
        return retention.read_retained(self.session, endpoint, name)

    def deployments_with_retained_images(self, endpoint: str) -> list[str]:
        """Names of the deployments whose images a deletion left on purpose."""
        repository = self.repository(endpoint).observe()
        return sorted(retention.with_retained_images(self.session, repository["repositoryArn"])) if repository else []

    def mark_retained(self, endpoint: str, name: str, what: Collection[str]) -> None:
        """Notes what a deletion is about to leave."""
        retention.mark_retained(self.session, endpoint, name, what)

    def orphans(self) -> Iterator[Orphan]:
        """What is left of deployments without a service, on any endpoint in the region."""
        return orphans.find_orphans(self.session)

    def read_api_key(self, secret: str) -> str:
        """The key that callers of a deployment show."""
        return self._resource_types.api_key.read(secret)

    def wait_until_rolled_out(
        self,
        endpoint: str,
        name: str,
        timeout_seconds: float,
        progress: Progress,
        test_green: TestGreen | None = None,
    ) -> None:
        """Follows the newest rollout of a deployment to its end; see RolloutWatch for how it may end.

        Where traffic is shifted and ECS pauses for it, `test_green` asks the new tasks (see ShiftWatch).
        """
        cluster = f"mlflow-fargate-{endpoint}"
        service = describe_service(self.session, cluster, name)
        if service is None:
            raise DeploymentNotFound(f"There is no deployment '{name}' on endpoint '{endpoint}'.")
        rollout = primary_deployment(service)["id"]
        watched = (self.session, cluster, name, rollout, progress, self._clock, self._sleep)
        if read_strategy(service)["strategy"] == "rolling" or refusal_of(service):
            RolloutWatch(*watched).wait_until_rolled_out(timeout_seconds)
        else:
            ShiftWatch(*watched, test_green=test_green).wait_until_rolled_out(timeout_seconds)

"""What stands on one endpoint: its place in AWS, its deployments, what they are asked and how they fare.

Readers and waits are in the rooms beside this one; here they are told which endpoint is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from mlflow_fargate.aws import execute_command
from mlflow_fargate.aws.ecr import Repository
from mlflow_fargate.aws.execute_command import RunningTask
from mlflow_fargate.aws.reading import history, metrics, retention, status
from mlflow_fargate.aws.resource_types import logs
from mlflow_fargate.aws.resource_types.existing_load_balancer import find_existing_load_balancer
from mlflow_fargate.aws.resource_types.load_balancer import find_load_balancer, listener_certificate
from mlflow_fargate.aws.resource_types.network import find_endpoint_vpc, find_network
from mlflow_fargate.aws.resource_types.service import describe_service, primary_deployment
from mlflow_fargate.aws.resource_types.strategy import read_strategy, refusal_of
from mlflow_fargate.aws.rollouts.watch import RolloutWatch
from mlflow_fargate.aws.rollouts.watch_shift import ShiftWatch, TestGreen
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.config import DeploymentConfig, parse_config
from mlflow_fargate.deployment import (
    DeploymentStatus,
    LogLine,
    Revision,
    ServiceEvent,
    TaskStatus,
    Traffic,
    WebhookStatus,
)
from mlflow_fargate.errors import DeploymentNotFound
from mlflow_fargate.progress import Progress
from mlflow_fargate.resources import ENDPOINT_TAG, MANAGED_BY, EndpointSpec, Network, cluster_name, log_group_name


@dataclass(frozen=True)
class Endpoint:
    """An endpoint by its name; nothing is read before it is asked for, and it need not be there."""

    session: AwsSession
    name: str
    clock: Callable[[], float]
    sleep: Callable[[float], None]

    @property
    def cluster(self) -> str:
        """The name of its cluster, which is that of its load balancer too."""
        return cluster_name(self.name)

    @property
    def repository(self) -> Repository:
        """Its image repository."""
        return Repository(self.session, self.name, {**MANAGED_BY, ENDPOINT_TAG: self.name})

    def spec(self, config: DeploymentConfig) -> EndpointSpec:
        """The endpoint as it is, or as `config` wants a new one: by default in the account's default VPC."""
        existing = find_existing_load_balancer(self.session, config)
        balancer = find_load_balancer(self.session, self.cluster)
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
            self.name,
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

    def standing_spec(self) -> EndpointSpec:
        """The endpoint as a deletion looks for it: where any of it stands, also when the default VPC is another."""
        if find_load_balancer(self.session, self.cluster):
            return replace(self.spec(parse_config(None)), shifts_traffic=True)
        vpc = find_endpoint_vpc(self.session, {**MANAGED_BY, ENDPOINT_TAG: self.name})
        network = Network(vpc or "none", ())
        return EndpointSpec(self.name, network, self.session.region, self.session.account, shifts_traffic=True)

    def status(self, name: str) -> DeploymentStatus | None:
        """The deployment as AWS shows it; None when there is none of ours."""
        return status.read(self.session, self.name, name)

    def list_statuses(self) -> Iterator[DeploymentStatus]:
        """Every deployment of ours."""
        return status.read_all(self.session, self.name)

    def webhook_status(self) -> WebhookStatus | None:
        """The webhook service as AWS shows it; None when there is none."""
        return status.read_webhook(self.session, self.name)

    def revisions(self, name: str, limit: int = 20) -> list[Revision]:
        """The newest revisions of a deployment, newest first."""
        return history.read_revisions(self.session, self.cluster, name, limit)

    def was_rolled_out(self, name: str) -> bool:
        """Whether any rollout of a deployment ever completed, whatever the newest is doing; see history.py."""
        return history.was_rolled_out(self.session, self.cluster, name)

    def events(self, name: str) -> list[ServiceEvent]:
        """What ECS told of a deployment, oldest first."""
        return history.read_events(self.session, self.cluster, name)

    def tasks(self, name: str) -> list[TaskStatus]:
        """The tasks of a deployment, those that stopped lately included."""
        return history.read_tasks(self.session, self.cluster, name)

    def traffic(self, name: str) -> list[Traffic]:
        """Requests, latency and errors of a deployment in the last hours; empty where CloudWatch has none."""
        return metrics.read_traffic(self.session, self.cluster, name, datetime.now(timezone.utc))

    def log_lines(self, name: str, since_milliseconds: int, task: str | None = None) -> Iterator[LogLine]:
        """What the tasks of a deployment (or one of them) wrote from a moment on."""
        return logs.lines_since(self.session, log_group_name(self.name, name), since_milliseconds, task)

    def runnable_task(self, name: str, task: str | None) -> RunningTask:
        """A running task of a deployment that can run commands; see execute_command.choose_task."""
        return execute_command.choose_task(self.session, self.cluster, name, task)

    def open_command(self, task: RunningTask, command: str, profile: str | None) -> list[str]:
        """Opens a session that runs `command` in the task; the arguments for AWS's plugin to follow it."""
        return execute_command.open_session(self.session, task, command, profile)

    def retained(self, name: str) -> frozenset[str]:
        """What a deletion of this deployment left on purpose: images, logs."""
        return retention.read_retained(self.session, self.name, name)

    def deployments_with_retained_images(self) -> list[str]:
        """Names of the deployments whose images a deletion left on purpose."""
        repository = self.repository.observe()
        return sorted(retention.with_retained_images(self.session, repository["repositoryArn"])) if repository else []

    def mark_retained(self, name: str, what: Collection[str]) -> None:
        """Notes what a deletion is about to leave."""
        retention.mark_retained(self.session, self.name, name, what)

    def wait_until_rolled_out(
        self, name: str, timeout_seconds: float, progress: Progress, test_green: TestGreen | None = None
    ) -> None:
        """Follows the newest rollout of a deployment to its end; see RolloutWatch for how it may end.

        Where traffic is shifted and ECS pauses for it, `test_green` asks the new tasks (see ShiftWatch).
        """
        service = describe_service(self.session, self.cluster, name)
        if service is None:
            raise DeploymentNotFound(f"There is no deployment '{name}' on endpoint '{self.name}'.")
        rollout = primary_deployment(service)["id"]
        watched = (self.session, self.cluster, name, rollout, progress, self.clock, self.sleep)
        if read_strategy(service)["strategy"] == "rolling" or refusal_of(service):
            RolloutWatch(*watched).wait_until_rolled_out(timeout_seconds)
        else:
            ShiftWatch(*watched, test_green=test_green).wait_until_rolled_out(timeout_seconds)

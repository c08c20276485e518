"""One endpoint: where it is in AWS, its deployments, their state, traffic and logs.

The other modules read and wait; this one calls them for its endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from mlflow_fargate.aws import execute_command
from mlflow_fargate.aws.ecr import Repository
from mlflow_fargate.aws.ecs_service import describe_service, primary_deployment, remember_change, requested_rollout
from mlflow_fargate.aws.execute_command import RunningTask
from mlflow_fargate.aws.existing_load_balancer import ExistingLoadBalancer, find_existing_load_balancer
from mlflow_fargate.aws.reading import history, metrics, retention, status
from mlflow_fargate.aws.reading.log_bucket import check_log_bucket
from mlflow_fargate.aws.reading.subnets import read_network
from mlflow_fargate.aws.resource_types.domain.certificate import find_certificates
from mlflow_fargate.aws.resource_types.domain.hosted_zone import find_zone
from mlflow_fargate.aws.resource_types.load_balancer import (
    certificate_of,
    find_load_balancer,
    listener_certificate,
    main_listener,
    subnets_of,
)
from mlflow_fargate.aws.resource_types.monitoring import logs
from mlflow_fargate.aws.resource_types.monitoring.alarms import check_alarms, read_alarms
from mlflow_fargate.aws.resource_types.network import find_endpoint_vpc
from mlflow_fargate.aws.resource_types.strategy import read_alarm_names, read_strategy, refusal_of
from mlflow_fargate.aws.resource_types.task_definition import TaskDefinitionType
from mlflow_fargate.aws.resource_types.traffic import TrafficType
from mlflow_fargate.aws.rollouts.watch import OnAnswer, RolloutWatch
from mlflow_fargate.aws.rollouts.watch_shift import ShiftWatch, TestGreen
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.config.endpoint_options import OF_THE_LOAD_BALANCER
from mlflow_fargate.deployment import (
    Alarm,
    DeploymentStatus,
    LogLine,
    RequestedRollout,
    Revision,
    ServiceEvent,
    TaskStatus,
    Traffic,
    WebhookStatus,
)
from mlflow_fargate.errors import DeploymentNotFound, InvalidOption
from mlflow_fargate.partitions import check_partition
from mlflow_fargate.plan import TypeName
from mlflow_fargate.progress import Progress
from mlflow_fargate.resources import (
    ENDPOINT_TAG,
    MANAGED_BY,
    OWN_CERTIFICATE,
    Domain,
    EndpointSpec,
    Network,
    choose_network,
    cluster_name,
    log_group_name,
)

_OF_THE_NETWORK = ("vpc", "subnets", "load_balancer_subnets", "assign_public_ip")


@dataclass(frozen=True)
class Endpoint:
    """An endpoint by name. It does not have to exist; each method reads only what it needs."""

    session: AwsSession
    name: str
    clock: Callable[[], float]
    sleep: Callable[[float], None]

    @property
    def cluster(self) -> str:
        """The name of its cluster and of its load balancer."""
        return cluster_name(self.name)

    @property
    def repository(self) -> Repository:
        """The endpoint's image repository."""
        return Repository(self.session, self.name, {**MANAGED_BY, ENDPOINT_TAG: self.name})

    def spec(
        self,
        config: DeploymentConfig,
        running: DeploymentStatus | WebhookStatus | None = None,
        names: Callable[[str], bool] = lambda _: True,
    ) -> EndpointSpec:
        """Returns the endpoint as it is, or a new one with `config`: by default in the account's default VPC.

        `running`: what is deployed with these options; it stays in its subnets, and the endpoint stays as it is, except
        for options that this command `names`. Raises InvalidOption if tasks could not start or be reached.
        """
        check_partition(config.named, self.session.region)
        check_alarms(self.session, config.alarms)
        existing = find_existing_load_balancer(self.session, config)
        balancer = None if existing else find_load_balancer(self.session, self.cluster)
        own = config if balancer is None or running is None else config.without(OF_THE_LOAD_BALANCER, unless=names)
        certificate = None if existing else own.certificate_arn
        if balancer and not certificate:
            certificate = listener_certificate(self.session, balancer["LoadBalancerArn"])
        domain = self._domain(own.domain, certificate) if own.domain else None
        certificate = OWN_CERTIFICATE if domain and domain.is_first else certificate
        is_https = existing.url.startswith("https:") if existing else certificate is not None
        if config.require_https and not is_https:
            raise _refuse_http(existing.url if existing else f"Endpoint '{self.name}'", is_existing=bool(existing))
        return EndpointSpec(
            self.name,
            self._network(own, existing, balancer, running, names),
            self.session.region,
            self._account(balancer),
            scheme=self._scheme(own, balancer),
            allowed_cidrs=tuple(sorted(own.allowed_cidrs)) or None,
            certificate_arn=certificate,
            domains=(domain,) if domain else (),
            idle_timeout_seconds=config.idle_timeout_seconds,
            is_https=is_https,
            execution_role_arn=config.execution_role_arn,
            permissions_boundary=config.permissions_boundary,
            role_path=config.role_path,
            infrastructure_role_arn=config.infrastructure_role_arn,
            shifts_traffic=config.shifts_traffic,
        )

    def check_log_bucket(self, config: DeploymentConfig) -> None:
        """Raises InvalidOption if the tasks could not write the record that `config` asks for."""
        check_log_bucket(self.session, config)

    def _account(self, balancer: Mapping[str, Any] | None) -> str:
        """The account's ID, from an ARN where one is known."""
        return str(balancer["LoadBalancerArn"]).split(":")[4] if balancer else self.session.account

    def _scheme(self, config: DeploymentConfig, balancer: Mapping[str, Any] | None) -> str:
        standing: str | None = balancer.get("Scheme") if balancer else None
        if standing and config.scheme not in (None, standing):
            raise InvalidOption(
                f"The load balancer of endpoint '{self.name}' is {standing}; AWS cannot change that.",
                hint="use another endpoint: -t fargate:/REGION/ENDPOINT",
            )
        return standing or config.scheme or "internet-facing"

    def _domain(self, name: str, certificate: str | None) -> Domain:
        """Returns the domain; its certificate is the first if the listener has none, or that one."""
        known = dict(find_certificates(self.session, {**MANAGED_BY, ENDPOINT_TAG: self.name}))
        return Domain(name, find_zone(self.session, name) is not None, certificate in (None, known.get(name)))

    def _network(
        self,
        config: DeploymentConfig,
        existing: ExistingLoadBalancer | None,
        balancer: Mapping[str, Any] | None,
        running: DeploymentStatus | WebhookStatus | None,
        names: Callable[[str], bool],
    ) -> Network:
        vpc, standing = config.vpc, tuple[str, ...]()
        adopted: Mapping[TypeName, str] = {}
        if existing:
            vpc, standing, adopted = existing.vpc, existing.subnets, existing.identifiers
        elif balancer:
            vpc, standing = balancer["VpcId"], subnets_of(balancer)
        if running and running.subnets and standing and vpc and not any(map(names, _OF_THE_NETWORK)):
            assigns = running.assigns_public_ip if config.assign_public_ip is None else config.assign_public_ip
            tasks = tuple(sorted(config.subnets or running.subnets))
            return Network(vpc, tasks, adopted, standing, assigns)
        named = (*config.subnets, *config.load_balancer_subnets)
        chosen = choose_network(read_network(self.session, vpc, named), config, standing)
        return replace(chosen, adopted=adopted)

    def standing_spec(self, *, is_kept: bool = False) -> EndpointSpec:
        """Returns the endpoint for a deletion: where its resources are, even if the default VPC has changed.

        `is_kept`: only a deployment on it is deleted, so its load balancer is taken as it is.
        """
        own = {**MANAGED_BY, ENDPOINT_TAG: self.name}
        known = () if is_kept else find_certificates(self.session, own)
        domains = tuple(Domain(name, has_zone=True, is_first=True) for name, _ in known)
        certificate = None
        if balancer := find_load_balancer(self.session, self.cluster):
            parts: dict[TypeName, str] = {"load balancer": balancer["LoadBalancerArn"]}
            if listener := main_listener(self.session, balancer["LoadBalancerArn"]):
                certificate, parts["listener"] = certificate_of(listener), listener["ListenerArn"]
            network = Network(balancer["VpcId"], (), parts if is_kept else {}, subnets_of(balancer))
        else:
            vpc = find_endpoint_vpc(self.session, own)
            network = Network(vpc or "none", ())
        return EndpointSpec(
            self.name,
            network,
            self.session.region,
            self._account(balancer),
            certificate_arn=certificate,
            domains=domains,
            shifts_traffic=True,
        )

    def status(self, name: str) -> DeploymentStatus | None:
        """Returns the deployment as AWS shows it; None if this package has not created one of this name."""
        return status.read(self.session, self.name, name)

    def list_statuses(self) -> Iterator[DeploymentStatus]:
        """Yields every deployment on the endpoint."""
        return status.read_all(self.session, self.name)

    def names(self) -> list[str]:
        """Returns the names of the deployments, sorted."""
        return status.names(self.session, self.name)

    def shares(self, name: str) -> dict[str, int]:
        """Returns deployment → percent of the requests, of `name` and each of its variants, also those without any."""
        return TrafficType(self.session, self.sleep).read(self.name, name)

    def variants(self, name: str) -> list[str]:
        """Returns the names of the deployments that are variants of this one, sorted."""
        return sorted(self.shares(name).keys() - {name})

    def webhook_status(self) -> WebhookStatus | None:
        """Returns the webhook service as AWS shows it; None if there is none."""
        return status.read_webhook(self.session, self.name)

    def running_revision(self, name: str) -> str | None:
        """Returns the ARN of the revision that a deployment runs or rolls out; None if there is no such service."""
        service = describe_service(self.session, self.cluster, name)
        return str(service["taskDefinition"]) if service and service["status"] == "ACTIVE" else None

    def revisions(self, name: str, limit: int = 20) -> list[Revision]:
        """Returns the newest revisions of a deployment, newest first."""
        return history.read_revisions(self.session, self.cluster, name, limit)

    def delete_revisions(self, name: str, arns: Collection[str]) -> None:
        """Deletes revisions of a deployment, unless they have been rolled out since they were listed."""
        left = history.never_rolled_out(self.session, self.cluster, name, datetime.now(timezone.utc))
        TaskDefinitionType(self.session).delete_revisions([arn for arn in arns if arn in left])

    def mark_left(self, revision: Revision, to: Revision, *, is_done: bool) -> None:
        """Records that a rollback goes, or went, back from this revision; see history.py."""
        history.mark_left(self.session, revision, to, is_done=is_done)

    def was_rolled_out(self, name: str) -> bool:
        """Returns whether any rollout of a deployment ever completed, whatever the newest is doing; see history.py."""
        return history.was_rolled_out(self.session, self.cluster, name)

    def rollout_began(self, name: str) -> datetime:
        """Returns when the newest rollout of a deployment began."""
        began: datetime = primary_deployment(describe_service(self.session, self.cluster, name) or {})["createdAt"]
        return began

    def replace_tasks(self, name: str) -> RequestedRollout | None:
        """Starts a rollout of the same revision, whose tasks read their secrets again."""
        answer = self.session.call("ecs", "update_service", cluster=self.cluster, service=name, forceNewDeployment=True)
        remember_change(self.session, self.cluster, answer["service"], None)
        return requested_rollout(self.session, self.cluster, name)

    def event_ids(self, name: str) -> frozenset[str]:
        """Returns the IDs of ECS's last events on a deployment."""
        service = describe_service(self.session, self.cluster, name) or {}
        return frozenset(event["id"] for event in service.get("events", ()))

    def events(self, name: str) -> list[ServiceEvent]:
        """Returns ECS's last events on a deployment, oldest first."""
        return history.read_events(self.session, self.cluster, name)

    def tasks(self, name: str) -> list[TaskStatus]:
        """Returns the tasks of a deployment, including recently stopped ones."""
        return history.read_tasks(self.session, self.cluster, name)

    def traffic(self, name: str, hours: int = 3) -> list[Traffic]:
        """Returns requests, latency and errors of a deployment in the last hours; empty if CloudWatch has none."""
        return metrics.read_traffic(self.session, self.cluster, name, datetime.now(timezone.utc), hours)

    def alarm_names(self, name: str) -> tuple[str, ...]:
        """Returns the names of the alarms that end a deployment's rollouts."""
        return read_alarm_names(describe_service(self.session, self.cluster, name) or {})

    def ringing_alarms(self, names: Sequence[str]) -> list[Alarm]:
        """Returns those of the alarms that are in ALARM: ECS ignores them in a rollout that begins now."""
        return [alarm for alarm in read_alarms(self.session, names) if alarm.state == "ALARM"]

    def log_lines(self, name: str, since_milliseconds: int, task: str | None = None) -> Iterator[LogLine]:
        """Yields the output of a deployment's tasks (or of one task) since a point in time."""
        return logs.lines_since(self.session, log_group_name(self.name, name), since_milliseconds, task)

    def runnable_task(self, name: str, task: str | None) -> RunningTask:
        """Returns a running task of a deployment that can run commands; see execute_command.choose_task."""
        return execute_command.choose_task(self.session, self.cluster, name, task)

    def open_command(self, task: RunningTask, command: str, profile: str | None) -> list[str]:
        """Opens a session that runs `command` in the task; returns the arguments with which AWS's plugin joins it."""
        return execute_command.open_session(self.session, task, command, profile)

    def retained(self, name: str) -> frozenset[str]:
        """Returns what a deletion of this deployment retained: images, logs."""
        return retention.read_retained(self.session, self.name, name)

    def deployments_with_retained_images(self) -> list[str]:
        """Returns the names of deployments whose images a deletion retained."""
        repository = self.repository.observe()
        return sorted(retention.with_retained_images(self.session, repository["repositoryArn"])) if repository else []

    def mark_retained(self, name: str, what: Collection[str]) -> None:
        """Marks what a deletion is about to retain."""
        retention.mark_retained(self.session, self.name, name, what)

    def wait_until_rolled_out(
        self,
        name: str,
        timeout_seconds: float,
        progress: Progress,
        test_green: TestGreen | None = None,
        earlier_events: Collection[str] = (),
        requested: RequestedRollout | None = None,
        on_answer: OnAnswer | None = None,
    ) -> None:
        """Waits for the `requested` rollout, or else the newest, to finish; see RolloutWatch for the errors.

        If ECS pauses a traffic shift for a test, `test_green` tests the new tasks (see ShiftWatch). `earlier_events`:
        IDs of ECS events that are not shown. `on_answer`: see OnAnswer.
        """
        service = describe_service(self.session, self.cluster, name)
        if service is None:
            raise DeploymentNotFound(f"There is no deployment '{name}' on endpoint '{self.name}'.")
        primary = primary_deployment(service)
        rollout = requested or RequestedRollout(primary["id"], service["taskDefinition"], primary["createdAt"])
        watched = (self.session, self.cluster, name, rollout, progress, self.clock, self.sleep, on_answer)
        if read_strategy(service)["strategy"] == "rolling" or refusal_of(service):
            watch = RolloutWatch(*watched)
        else:
            watch = ShiftWatch(*watched, test_green=test_green)
        watch.wait_until_rolled_out(timeout_seconds, earlier_events)


def _refuse_http(where: str, *, is_existing: bool) -> InvalidOption:
    own = "set a certificate: mlflow deployments update-endpoint … -C certificate_arn=ARN"
    return InvalidOption(
        f"{where} does not use HTTPS, which require_https=true demands.",
        hint="name an HTTPS listener" if is_existing else own,
    )

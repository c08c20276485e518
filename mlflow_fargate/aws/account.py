"""The one face of AWS to the story: an account that observes what is there and applies a plan to it.

Each kind of resource has a small class that observes, creates, changes and deletes it; this module knows which kind is
which, hands each what was made before it, and refuses to touch what is not ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Protocol

from mlflow_fargate.aws import ecr, execute_command, history, logs, metrics, orphans, retention, status, tags
from mlflow_fargate.aws.adoption import describe_target_group, find_door
from mlflow_fargate.aws.ecs import Cluster, Service, describe_service, primary_deployment
from mlflow_fargate.aws.execute_command import RunningTask
from mlflow_fargate.aws.iam import Role, SecretsPolicy, infrastructure_trust, task_trust
from mlflow_fargate.aws.load_balancer import (
    Listener,
    LoadBalancer,
    RedirectListener,
    find_load_balancer,
    listener_certificate,
)
from mlflow_fargate.aws.logs import LogGroup
from mlflow_fargate.aws.network import LoadBalancerSecurityGroup, TaskSecurityGroup, find_endpoint_vpc, find_network
from mlflow_fargate.aws.rollout import RolloutWatch
from mlflow_fargate.aws.routing import HostRule, ListenerRule, TargetGroup, TestRule
from mlflow_fargate.aws.s3 import S3Artifacts
from mlflow_fargate.aws.scaling import AutoScaling
from mlflow_fargate.aws.secrets import ApiKey
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.aws.shift import ShiftWatch, TestGreen
from mlflow_fargate.aws.strategy import read_strategy, refusal_of
from mlflow_fargate.aws.task_definition import TaskDefinition
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
from mlflow_fargate.errors import AwsError, DeploymentNotFound
from mlflow_fargate.plan import Found, Plan, Resource, make_plan
from mlflow_fargate.progress import Progress
from mlflow_fargate.resources import ENDPOINT_TAG, MANAGED_BY, EndpointSpec, Network, log_group_name
from mlflow_fargate.target import Target

# What names a target group: it goes before the group does, and where it is gone already the others still do.
_NEED_TARGET_GROUPS = ("test rule", "listener rule", "host rule", "task definition", "service")
_TARGET_GROUPS = ("target group", "alternate target group")


class Kind(Protocol):
    """What can be done with one kind of resource; `made` maps kinds to the identifiers known so far."""

    def observe(self, resource: Resource, made: Mapping[str, str]) -> Found | None: ...
    def create(self, resource: Resource, made: Mapping[str, str]) -> str: ...
    def change(self, resource: Resource, found: Found, made: Mapping[str, str]) -> str: ...
    def delete(self, found: Found) -> None: ...


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
        session = self.session
        self._api_key = ApiKey(session)
        self._target_group = TargetGroup(session)
        self._task_definition = TaskDefinition(session)
        self._listener_rule = ListenerRule(session)
        self._kinds: Mapping[str, Kind] = {
            "cluster": Cluster(session),
            "execution role": Role(session, "execution", "pulls images, writes logs, reads API keys", task_trust),
            "infrastructure role": Role(
                session, "infrastructure", "shifts traffic between versions", infrastructure_trust
            ),
            "load balancer security group": LoadBalancerSecurityGroup(session),
            "task security group": TaskSecurityGroup(session),
            "load balancer": LoadBalancer(session),
            "listener": Listener(session),
            "redirect listener": RedirectListener(session),
            "log group": LogGroup(session),
            "API key": self._api_key,
            "task role": Role(session, "webhook", "what the webhook service may do", task_trust),
            "secrets policy": SecretsPolicy(session),
            "target group": self._target_group,
            "alternate target group": self._target_group,
            "test rule": TestRule(session),
            "listener rule": self._listener_rule,
            "host rule": HostRule(session),
            "task definition": self._task_definition,
            "service": Service(session, clock, sleep),
            "autoscaling": AutoScaling(session),
        }

    @property
    def region(self) -> str:
        return self.session.region

    def endpoint_spec(self, name: str, config: DeploymentConfig) -> EndpointSpec:
        """The endpoint as it is, or as `config` wants a new one: by default in the account's default VPC."""
        door = find_door(self.session, config)
        balancer = find_load_balancer(self.session, f"mlflow-fargate-{name}")
        certificate = None if door else config.certificate_arn
        if door:
            network = Network(door.vpc, config.subnets or door.subnets, door.identifiers)
        elif balancer is None or config.subnets:
            network = find_network(self.session, config.vpc, config.subnets)
        else:
            subnets = sorted(zone["SubnetId"] for zone in balancer["AvailabilityZones"])
            network = Network(vpc=balancer["VpcId"], subnets=tuple(subnets))
            certificate = certificate or listener_certificate(self.session, balancer["LoadBalancerArn"])
        role = config.execution_role_arn
        return EndpointSpec(
            name,
            network,
            self.session.region,
            self.session.account,
            certificate,
            role,
            config.permissions_boundary,
            config.role_path,
            config.infrastructure_role_arn,
            config.shifts_traffic,
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

    def observe(self, resources: Sequence[Resource], network: Network) -> dict[tuple[str, str], Found]:
        """What is there of `resources` (in order of dependency)."""
        made = {"vpc": network.vpc, **network.adopted}
        found: dict[tuple[str, str], Found] = {}
        for resource in resources:
            self._look_at_running(resource, resources, made)
            seen = self._kinds[resource.kind].observe(resource, made)
            if seen is not None:
                found[resource.kind, resource.name] = seen
                made[resource.kind] = seen.identifier
        return found

    def apply(self, plan: Plan, network: Network, progress: Progress) -> None:
        """Makes the plan's changes in its order; ForeignResource before any of them if one would touch another's."""
        for change in plan.changes:
            if change.wanted and change.found and not change.found.is_ours:
                raise tags.refuse_foreign(change.wanted, change.found.identifier)
        made = {"vpc": network.vpc, **network.adopted}
        for change in plan.changes:
            if change.action != "keep":
                progress.note(str(change).splitlines()[0])
            kind = self._kinds[change.kind]
            if change.action == "delete" and change.found:
                kind.delete(change.found)
            elif change.action == "create" and change.wanted:
                made[change.kind] = _create_or_adopt(kind, change.wanted, made)
            elif change.action == "change" and change.wanted and change.found:
                made[change.kind] = kind.change(change.wanted, change.found, made)
            elif change.found:
                made[change.kind] = change.found.identifier

    def find_endpoint(self, resources: Sequence[Resource], network: Network) -> list[tuple[str, str, Found]]:
        """What is there of an endpoint, in order of dependency."""
        return [(kind, name, found) for (kind, name), found in self.observe(resources, network).items()]

    def find_deployment(
        self, endpoint: Sequence[Resource], deployment: Sequence[Resource], network: Network
    ) -> list[tuple[str, str, Found]]:
        """What is there of a deployment, in order of dependency, whatever its options were and wherever it was left."""
        names = {(resource.kind, resource.name) for resource in deployment if resource.kind not in _TARGET_GROUPS}
        observed = self.observe([*endpoint, *deployment], network)
        found = [(kind, name, what) for (kind, name), what in observed.items() if (kind, name) in names]
        wanted_tags = next(resource.tags for resource in deployment)
        groups = [("target group", name, what) for name, what in self._target_group.observe_all({}, wanted_tags)]
        family = next(resource for resource in deployment if resource.kind == "task definition")
        if (family.kind, family.name) not in observed and (inactive := self._task_definition.observe_inactive(family)):
            found.append((family.kind, family.name, inactive))
        place = next((i for i, (kind, _, _) in enumerate(found) if kind in _NEED_TARGET_GROUPS), len(found))
        known = {what.identifier for _, _, what in found}
        rules = [
            ("listener rule", *rule)
            for rule in self._rules_elsewhere(groups, wanted_tags)
            if rule[1].identifier not in known
        ]
        return [*found[:place], *groups, *rules, *found[place:]]

    def _rules_elsewhere(
        self, groups: Sequence[tuple[str, str, Found]], wanted_tags: Mapping[str, str]
    ) -> Iterator[tuple[str, Found]]:
        """Rules of ours on load balancers that were adopted: nothing but the target groups leads there."""
        for _, _, group in groups:
            for balancer in describe_target_group(self.session, group.identifier).get("LoadBalancerArns") or ():
                yield from self._listener_rule.observe_all(balancer, wanted_tags)

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
        return self._api_key.read(secret)

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

    def _look_at_running(self, resource: Resource, resources: Sequence[Resource], made: dict[str, str]) -> None:
        """A task definition is compared with the revision that the service runs, so look at the service first."""
        service = next((item for item in resources if item.kind == "service"), None)
        if resource.kind != "task definition" or service is None or "cluster" not in made:
            return
        described = describe_service(self.session, made["cluster"], service.name)
        if described and described["status"] == "ACTIVE":
            made["running task definition"] = described["taskDefinition"]


def _create_or_adopt(kind: Kind, resource: Resource, made: Mapping[str, str]) -> str:
    """Creates; where another deployer was faster, takes over what it made, if it is ours, and changes what differs."""
    try:
        return kind.create(resource, made)
    except AwsError as error:
        found = kind.observe(resource, made) if error.meaning == "conflict" else None
        if found is None:
            raise
        if not found.is_ours:
            raise tags.refuse_foreign(resource, found.identifier) from error
        differs = make_plan([resource], {(resource.kind, resource.name): found}).changes[0].differences
        return kind.change(resource, found, made) if differs else found.identifier

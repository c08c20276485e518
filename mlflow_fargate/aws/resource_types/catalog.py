"""Every resource type by name, and applying a plan to them.

Each type has a small class that observes, creates, changes and deletes it. This module looks them up, passes each the
IDs of what was created earlier, and refuses to change foreign resources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.ecs_service import describe_service, is_deployed, requested_rollout
from mlflow_fargate.aws.resource_types.cluster import ClusterType
from mlflow_fargate.aws.resource_types.domain.certificate import CertificateType
from mlflow_fargate.aws.resource_types.domain.dns_record import DnsRecordType
from mlflow_fargate.aws.resource_types.iam import RoleType, SecretsPolicyType, infrastructure_trust, task_trust
from mlflow_fargate.aws.resource_types.interfaces import wait_until_unused
from mlflow_fargate.aws.resource_types.listener_rules import (
    HostRuleType,
    ListenerRuleType,
    RedirectListenerType,
    TestRuleType,
)
from mlflow_fargate.aws.resource_types.load_balancer import (
    ListenerCertificateType,
    ListenerType,
    LoadBalancerType,
)
from mlflow_fargate.aws.resource_types.monitoring.alarms import AlarmType
from mlflow_fargate.aws.resource_types.monitoring.logs import LogGroupType
from mlflow_fargate.aws.resource_types.network import LoadBalancerSecurityGroupType, TaskSecurityGroupType
from mlflow_fargate.aws.resource_types.resource_type import IdName, Ids, ResourceType
from mlflow_fargate.aws.resource_types.scaling import AutoScalingType
from mlflow_fargate.aws.resource_types.secrets import ApiKeyType
from mlflow_fargate.aws.resource_types.service import ServiceType
from mlflow_fargate.aws.resource_types.target_group import TargetGroupType
from mlflow_fargate.aws.resource_types.task_definition import TaskDefinitionType
from mlflow_fargate.aws.resource_types.traffic import TrafficType
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.deployment import RequestedRollout
from mlflow_fargate.errors import AwsError, DeploymentExists, DeploymentNotFound
from mlflow_fargate.plan import Change, Found, Plan, Properties, Resource, TypeName, make_plan
from mlflow_fargate.progress import Progress
from mlflow_fargate.resources import WEBHOOK, Network

ServiceName = tuple[str, str]  # the cluster's name and its own
# Types that refer to a target group: they are deleted before the group.
_NEED_TARGET_GROUPS = ("test rule", "variant rule", "listener rule", "host rule", "task definition", "service")
_TARGET_GROUPS = ("target group", "alternate target group")
# Parts of an endpoint by which the resources of its deployments are found.
_NEEDED_TO_FIND = ("cluster", "execution role")


class ResourceTypes:
    """The resource types in one account."""

    def __init__(self, session: AwsSession, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._session = session
        self._clock = clock
        self._sleep = sleep
        self.api_key = ApiKeyType(session)
        self._target_group = TargetGroupType(session)
        self._traffic = TrafficType(session, sleep)
        self._task_definition = TaskDefinitionType(session)
        self._listener_rule = ListenerRuleType(session)
        self._certificate = CertificateType(session, clock, sleep)
        self._service = ServiceType(session, clock, sleep)
        self.by_name: Mapping[TypeName, ResourceType[Any]] = {
            "cluster": ClusterType(session),
            "execution role": RoleType(session, "execution", "pulls images, writes logs, reads API keys", task_trust),
            "infrastructure role": RoleType(
                session, "infrastructure", "shifts traffic between versions", infrastructure_trust
            ),
            "load balancer security group": LoadBalancerSecurityGroupType(session),
            "task security group": TaskSecurityGroupType(session),
            "load balancer": LoadBalancerType(session),
            "DNS record": DnsRecordType(session),
            "certificate": self._certificate,
            "listener": ListenerType(session),
            "listener certificate": ListenerCertificateType(session),
            "redirect listener": RedirectListenerType(session),
            "log group": LogGroupType(session),
            "API key": self.api_key,
            "task role": RoleType(session, "webhook", "permissions of the webhook service", task_trust),
            "inference log role": RoleType(session, "inference-log", "writes the record of predictions", task_trust),
            "secrets policy": SecretsPolicyType(session),
            "target group": self._target_group,
            "alternate target group": self._target_group,
            "test rule": TestRuleType(session),
            "listener rule": self._listener_rule,
            "host rule": HostRuleType(session),
            "variant rule": TestRuleType(session),
            "traffic": self._traffic,
            "task definition": self._task_definition,
            "alarm": AlarmType(session),
            "service": self._service,
            "autoscaling": AutoScalingType(session),
        }

    def observe(
        self, resources: Sequence[Resource[Properties]], network: Network
    ) -> dict[tuple[TypeName, str], Found[Properties]]:
        """Returns those of `resources` (in order of dependency) that exist."""
        ids = _first_ids(network)
        found: dict[tuple[TypeName, str], Found[Properties]] = {}
        for resource in resources:
            self._read_running(resource, resources, ids)
            seen = self.by_name[resource.resource_type].observe(resource, ids)
            if seen is not None:
                found[resource.resource_type, resource.name] = seen
                ids[resource.resource_type] = seen.identifier
        return found

    def apply(
        self, plan: Plan, network: Network, progress: Progress, deleted: ServiceName | None = None
    ) -> RequestedRollout | None:
        """Applies the plan in order; raises ForeignResource before the first change if any is to a foreign resource.

        Returns the rollout that ECS answered with; None if the plan did not change the service. `deleted`: the service
        of the deployment that the plan deletes. Raises DeploymentExists, before the next change, if another command
        has created the service that the plan creates (unless the two are equal), or that the deletion no longer finds.
        """
        for change in plan.changes:
            if change.wanted and change.found and not change.found.is_ours:
                raise tags.refuse_foreign(change.wanted, change.found.identifier)
        ids, self._certificate.tell = _first_ids(network), progress.note
        total = sum(change.action != "keep" for change in plan.changes)
        number, absent = 0, _absent_service(plan, deleted)
        if total or absent:
            self._session.end_observation()
        if total:
            progress.step(f"Applying {total} change{'s' if total > 1 else ''}")
        with progress.waiting("applying") as update:
            self._service.tell = update
            for change in plan.changes:
                if change.action != "keep":
                    number += 1
                    update(f"{number} of {total}: {change.title}")
                try:
                    if absent and change.action != "keep" and is_deployed(self._session, *absent):
                        ids[change.resource_type] = self._adopt_equal(change, ids, absent[1])
                    else:
                        self._apply(change, ids, update)
                except BaseException as error:
                    progress.note(f"stopped at change {number} of {total}: {change.title}")
                    if isinstance(error, AwsError):
                        self._check_not_deleted(plan, error)
                    raise
                if change.resource_type == "service":
                    absent = deleted
        if absent and is_deployed(self._session, *absent):  # the caller deletes its images next
            raise _created_meanwhile(absent[1], is_deletion=True)
        changed = (c for c in plan.changes if c.resource_type == "service" and c.action in ("create", "change"))
        return next((requested_rollout(self._session, ids["cluster"], change.name) for change in changed), None)

    def _apply(self, change: Change, ids: dict[IdName, str], update: Callable[[str], None]) -> None:
        resource_type = self.by_name[change.resource_type]
        if change.action == "delete" and change.found:
            if change.resource_type.endswith("security group"):
                wait_until_unused(self._session, change.found.identifier, update, self._clock, self._sleep)
            resource_type.delete(change.found)
        elif change.action == "create" and change.wanted:
            ids[change.resource_type] = _create_or_adopt(resource_type, change.wanted, ids)
        elif change.action == "change" and change.wanted and change.found:
            ids[change.resource_type] = resource_type.change(change.wanted, change.found, ids)
        elif change.found:
            ids[change.resource_type] = change.found.identifier

    def _adopt_equal(self, change: Change, ids: Ids, name: str) -> str:
        """Returns the resource that another command created with deployment `name`; DeploymentExists if it differs."""
        resource = change.wanted
        found = self.by_name[resource.resource_type].observe(resource, ids) if resource else None
        if resource and found and found.is_ours and not _differs(resource, found):
            return found.identifier
        raise _created_meanwhile(name, is_deletion=resource is None)

    def _check_not_deleted(self, plan: Plan, error: AwsError) -> None:
        """Raises DeploymentNotFound if the reason for an error is that another command deleted the deployment."""
        services = [
            item.name for item in plan.changes if item.resource_type == "service" and item.wanted and item.found
        ]
        if services and not is_deployed(self._session, _cluster(plan), services[0]):
            raise DeploymentNotFound(
                f"Another command deleted '{services[0]}' after this one began.",
                hint=f"to create it again: {_command(services[0], 'create')}",
            ) from error

    def find_deployment(
        self, endpoint: Sequence[Resource[Properties]], deployment: Sequence[Resource[Properties]], network: Network
    ) -> list[tuple[TypeName, str, Found[Properties]]]:
        """Returns the existing resources of a deployment, in order of dependency, for all options it may have had."""
        names = {(item.resource_type, item.name) for item in deployment}
        needed = [item for item in endpoint if item.resource_type in _NEEDED_TO_FIND]
        observed = self.observe(
            [*needed, *(item for item in deployment if item.resource_type not in _TARGET_GROUPS)], network
        )
        found = [(*place, what) for place, what in observed.items() if place in names]
        wanted_tags = next(resource.tags for resource in deployment)
        groups = self._target_group.find_all(wanted_tags)
        family = next(resource.name for resource in deployment if resource.resource_type == "task definition")
        is_seen = ("task definition", family) in observed
        if not is_seen and (inactive := self._task_definition.observe_inactive(family)):
            found.append(("task definition", family, inactive))
        place = next((i for i, (name, _, _) in enumerate(found) if name in _NEED_TARGET_GROUPS), len(found))
        known = {what.identifier for _, _, what in found}
        rules = [rule for rule in self._rules_elsewhere(groups, wanted_tags) if rule[1].identifier not in known]
        return [
            *found[:place],
            *(("target group", it["TargetGroupName"], Found(it["TargetGroupArn"], Properties())) for it in groups),
            *(("listener rule", *rule) for rule in rules),
            *found[place:],
            *(
                ("traffic", *share)
                for share in self._traffic.find_shares([group["TargetGroupArn"] for group in groups])
            ),
        ]

    def _rules_elsewhere(
        self, groups: Sequence[Mapping[str, Any]], wanted_tags: Mapping[str, str]
    ) -> Iterator[tuple[str, Found[Properties]]]:
        """The deployment's rules on existing load balancers, which are only found through its target groups."""
        for group in groups:
            for balancer in group.get("LoadBalancerArns") or ():
                yield from self._listener_rule.observe_all(balancer, group["TargetGroupArn"], wanted_tags)

    def _read_running(
        self, resource: Resource[Properties], resources: Sequence[Resource[Properties]], ids: dict[IdName, str]
    ) -> None:
        """Reads which revision the service runs: the desired task definition is compared with that."""
        service = next((item for item in resources if item.resource_type == "service"), None)
        if resource.resource_type != "task definition" or service is None or "cluster" not in ids:
            return
        described = describe_service(self._session, ids["cluster"], service.name)
        if described and described["status"] == "ACTIVE":
            ids["running task definition"] = described["taskDefinition"]


def _first_ids(network: Network) -> dict[IdName, str]:
    """The IDs that are known before anything is created."""
    ids: dict[IdName, str] = {"vpc": network.vpc}
    for type_name, identifier in network.adopted.items():
        ids[type_name] = identifier
    return ids


def _absent_service(plan: Plan, deleted: ServiceName | None) -> ServiceName | None:
    """The service that must not exist yet: what the plan creates, or what a deletion did not find."""
    service = next((change for change in plan.changes if change.resource_type == "service"), None)
    if service is None:
        return deleted
    return (_cluster(plan), service.name) if service.action == "create" else None


def _cluster(plan: Plan) -> str:
    return next(change.name for change in plan.changes if change.resource_type == "cluster")


def _differs(resource: Resource[Properties], found: Found[Properties]) -> bool:
    return not make_plan([resource], {(resource.resource_type, resource.name): found}).is_empty


def _created_meanwhile(name: str, *, is_deletion: bool) -> DeploymentExists:
    if is_deletion:
        return DeploymentExists(
            f"Another command recreated '{name}' while this one was deleting it.",
            hint=f"some resources may be missing; to repair the deployment, run {_command(name, 'create')} again; "
            f"to finish deleting it, run {_command(name, 'delete')} again",
        )
    return DeploymentExists(
        f"Another command created '{name}' at the same time, with another model or other options.",
        hint=f"see what is deployed with: {_command(name, 'status')}; change it with: {_command(name, 'update')}",
    )


def _command(service: str, verb: Literal["create", "update", "delete", "status"]) -> str:
    """The command that does this to a deployment or, by its name, to the webhook service."""
    if service == WEBHOOK:
        own = {"create": "deploy", "update": "deploy", "delete": "undeploy", "status": "status"}
        return f"mlflow-fargate webhook {own[verb]}"
    return "mlflow-fargate status" if verb == "status" else f"mlflow deployments {verb}"


def _create_or_adopt(resource_type: ResourceType[Any], resource: Resource[Properties], ids: Ids) -> str:
    """Creates the resource; if another client was faster, adopts the result and changes what differs.

    Raises DeploymentExists for a service that differs: another command has just created the deployment.
    """
    try:
        return resource_type.create(resource, ids)
    except AwsError as error:
        found = resource_type.observe(resource, ids) if error.meaning == "conflict" else None
        if found is None:
            raise
        if not found.is_ours:
            raise tags.refuse_foreign(resource, found.identifier) from error
        differs = _differs(resource, found)
        if differs and resource.resource_type == "service":
            raise _created_meanwhile(resource.name, is_deletion=False) from error
        return resource_type.change(resource, found, ids) if differs else found.identifier

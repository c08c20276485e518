"""Every kind of resource by its name, and a plan applied to them.

Each kind has a small class that observes, creates, changes and deletes it; this module knows which kind is which, hands
each what was made before it, and refuses to touch what is not ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.resource_types.cluster import Cluster
from mlflow_fargate.aws.resource_types.existing_load_balancer import describe_target_group
from mlflow_fargate.aws.resource_types.iam import Role, SecretsPolicy, infrastructure_trust, task_trust
from mlflow_fargate.aws.resource_types.load_balancer import Listener, LoadBalancer, RedirectListener
from mlflow_fargate.aws.resource_types.logs import LogGroup
from mlflow_fargate.aws.resource_types.network import LoadBalancerSecurityGroup, TaskSecurityGroup
from mlflow_fargate.aws.resource_types.routing import HostRule, ListenerRule, TargetGroup, TestRule
from mlflow_fargate.aws.resource_types.scaling import AutoScaling
from mlflow_fargate.aws.resource_types.secrets import ApiKey
from mlflow_fargate.aws.resource_types.service import Service, describe_service
from mlflow_fargate.aws.resource_types.task_definition import TaskDefinition
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError
from mlflow_fargate.plan import Found, Plan, Resource, make_plan
from mlflow_fargate.progress import Progress
from mlflow_fargate.resources import Network

# What names a target group: it goes before the group does, and where it is gone already the others still do.
_NEED_TARGET_GROUPS = ("test rule", "listener rule", "host rule", "task definition", "service")
_TARGET_GROUPS = ("target group", "alternate target group")


class Kind(Protocol):
    """What can be done with one kind of resource; `made` maps kinds to the identifiers known so far."""

    def observe(self, resource: Resource, made: Mapping[str, str]) -> Found | None: ...
    def create(self, resource: Resource, made: Mapping[str, str]) -> str: ...
    def change(self, resource: Resource, found: Found, made: Mapping[str, str]) -> str: ...
    def delete(self, found: Found) -> None: ...


class Kinds:
    """The kinds in one account."""

    def __init__(self, session: AwsSession, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._session = session
        self.api_key = ApiKey(session)
        self._target_group = TargetGroup(session)
        self._task_definition = TaskDefinition(session)
        self._listener_rule = ListenerRule(session)
        self.by_name: Mapping[str, Kind] = {
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
            "API key": self.api_key,
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

    def observe(self, resources: Sequence[Resource], network: Network) -> dict[tuple[str, str], Found]:
        """What is there of `resources` (in order of dependency)."""
        made = {"vpc": network.vpc, **network.adopted}
        found: dict[tuple[str, str], Found] = {}
        for resource in resources:
            self._look_at_running(resource, resources, made)
            seen = self.by_name[resource.kind].observe(resource, made)
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
            kind = self.by_name[change.kind]
            if change.action == "delete" and change.found:
                kind.delete(change.found)
            elif change.action == "create" and change.wanted:
                made[change.kind] = _create_or_adopt(kind, change.wanted, made)
            elif change.action == "change" and change.wanted and change.found:
                made[change.kind] = kind.change(change.wanted, change.found, made)
            elif change.found:
                made[change.kind] = change.found.identifier

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
            for balancer in describe_target_group(self._session, group.identifier).get("LoadBalancerArns") or ():
                yield from self._listener_rule.observe_all(balancer, wanted_tags)

    def _look_at_running(self, resource: Resource, resources: Sequence[Resource], made: dict[str, str]) -> None:
        """A task definition is compared with the revision that the service runs, so look at the service first."""
        service = next((item for item in resources if item.kind == "service"), None)
        if resource.kind != "task definition" or service is None or "cluster" not in made:
            return
        described = describe_service(self._session, made["cluster"], service.name)
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

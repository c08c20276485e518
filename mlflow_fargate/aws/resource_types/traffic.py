"""ELBv2: how the requests to a deployment are divided among it and its variants: weights in its listener rules.

Which target group belongs to which deployment is read from the groups' tags. A variant without requests is in no rule
of its deployment: rules forward to at most five groups, and groups in a rule cannot be deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlflow_fargate.aws.resource_types.listener_rules import forward_to, header_of, rules_of, weights_of
from mlflow_fargate.aws.resource_types.load_balancer import tags_of
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.aws.resource_types.target_group import TargetGroupType
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources import DEPLOYMENT_TAG, ENDPOINT_TAG, MANAGED_BY, VARIANT_TAG
from mlflow_fargate.resources.properties import TrafficProperties

# Rules take seconds to reach every node of a load balancer; until then, some still forward to the variant.
_SETTLING_SECONDS = 10


class TrafficType(ResourceType[TrafficProperties]):
    """The shares of a deployment, by its name, and its variants. One rule or two (with a host) have the same."""

    def __init__(self, session: AwsSession, sleep: Callable[[float], None]) -> None:
        super().__init__(session)
        self._target_group = TargetGroupType(session)
        self._sleep = sleep

    def read(self, endpoint: str, name: str) -> dict[str, int]:
        """Returns deployment → percent of the requests, of `name` and each of its variants, also those without any."""
        groups = self._groups(endpoint, name)
        variants = sorted(set(groups.values()) - {name})
        rules = self._rules(groups, name) if variants else ()
        shares = next((_shares(rule, groups) for rule in rules), {name: 100})
        return {one: shares.get(one, 0) for one in (name, *variants)}

    def observe(self, resource: Resource[TrafficProperties], ids: Ids) -> Found[TrafficProperties] | None:
        """Of two rules that differ, which an interrupted command leaves, the one that is not as desired counts."""
        groups = self._groups(resource.tags[ENDPOINT_TAG], resource.name)
        found = [(rule["RuleArn"], _shares(rule, groups)) for rule in self._rules(groups, resource.name)]
        if not found:
            raise InvalidOption(
                f"'{resource.name}' has no listener rule, so its requests cannot be divided.",
                hint="run mlflow deployments update for it, which creates what is missing",
            )
        arn, shares = min(found, key=lambda one: one[1] == resource.properties.shares)
        return Found(arn, TrafficProperties(shares))

    def create(self, resource: Resource[TrafficProperties], ids: Ids) -> str:
        raise AssertionError("a deployment always has shares")

    def change(self, resource: Resource[TrafficProperties], found: Found[TrafficProperties], ids: Ids) -> str:
        """Sets the weights; InvalidOption, before the first write, if a variant that had no share has no tasks."""
        groups = self._groups(resource.tags[ENDPOINT_TAG], resource.name)
        shares = resource.properties.shares
        for arn, name in groups.items():
            is_new = name != resource.name and name in shares and not found.properties.shares.get(name)
            if is_new and not self._target_group.healthy_addresses(arn):
                raise InvalidOption(
                    f"'{name}' has no healthy tasks, so callers would get 503 for its share.",
                    hint=f"see what is wrong: mlflow-fargate status --name {name}",
                )
        for rule in self._rules(groups, resource.name):
            # Of a deployment's own groups (an update of its port replaces its group), the one that it uses now.
            used = {arn: name for arn, name in groups.items() if name != resource.name or arn in weights_of(rule)}
            self._set(rule, {arn: shares[name] for arn, name in used.items() if name in shares})
        return found.identifier

    def delete(self, found: Found[Properties]) -> None:
        """Gives the share of a variant, by its target group, back to its deployment, before its tasks stop."""
        for rule in self._shared(found.identifier):
            weights = weights_of(rule)
            freed = weights.pop(found.identifier)
            theirs = tags_of(self._session, list(weights))
            own = next((arn for arn in weights if VARIANT_TAG not in theirs[arn]), next(iter(weights)))
            self._set(rule, {**weights, own: weights[own] + freed})
        self._sleep(_SETTLING_SECONDS)

    def find_shares(self, groups: list[str]) -> Iterator[tuple[str, Found[Properties]]]:
        """Yields those of the target groups that are a variant's and get requests, each with its deployment's name."""
        for arn, theirs in tags_of(self._session, groups).items():
            if VARIANT_TAG in theirs and self._shared(arn):
                yield theirs[VARIANT_TAG], Found(arn, Properties())

    def _shared(self, group: str) -> list[dict[str, Any]]:
        """The rules that divide requests among this target group and others."""
        return [rule for rule in self._rules_at([group]) if group in (weights := weights_of(rule)) and len(weights) > 1]

    def _set(self, rule: Mapping[str, Any], weights: Mapping[str, int]) -> None:
        action = forward_to(weights)
        if len(weights) == 1:
            action = {"Type": "forward", "TargetGroupArn": next(iter(weights))}
        self._session.call("elbv2", "modify_rule", RuleArn=rule["RuleArn"], Actions=[action])

    def _groups(self, endpoint: str, name: str) -> dict[str, str]:
        """ARN → deployment, of the target groups of `name` and its variants."""
        found = self._target_group.find_all({**MANAGED_BY, ENDPOINT_TAG: endpoint})
        theirs = tags_of(self._session, [group["TargetGroupArn"] for group in found])
        return {
            arn: tags[DEPLOYMENT_TAG]
            for arn, tags in theirs.items()
            if name in (tags.get(VARIANT_TAG), tags.get(DEPLOYMENT_TAG))
        }

    def _rules(self, groups: Mapping[str, str], name: str) -> Iterator[dict[str, Any]]:
        """The rules of the deployment: those that forward to a group of its own; not the test of its new tasks."""
        own = [arn for arn, whose in groups.items() if whose == name]
        for rule in self._rules_at(own):
            if header_of(rule) is None and not weights_of(rule).keys().isdisjoint(own):
                yield rule

    def _rules_at(self, groups: list[str]) -> Iterator[dict[str, Any]]:
        """This package's rules on the load balancers that the groups are attached to."""
        described = self._session.pages("elbv2", "describe_target_groups", "TargetGroups")
        balancers = {one: None for it in described if it["TargetGroupArn"] in groups for one in it["LoadBalancerArns"]}
        for balancer in balancers:
            for listener in self._session.pages("elbv2", "describe_listeners", "Listeners", LoadBalancerArn=balancer):
                rules = {rule["RuleArn"]: rule for rule in rules_of(self._session, listener["ListenerArn"])}
                rules = {arn: rule for arn, rule in rules.items() if not rule["IsDefault"]}
                theirs = tags_of(self._session, list(rules))
                yield from (rule for arn, rule in rules.items() if MANAGED_BY.items() <= theirs[arn].items())


def _shares(rule: Mapping[str, Any], groups: Mapping[str, str]) -> dict[str, int]:
    """Deployment → percent of the rule's requests."""
    weights = weights_of(rule)
    total = sum(weights.values()) or 1
    return {groups.get(arn, arn): round(100 * weight / total) for arn, weight in weights.items()}

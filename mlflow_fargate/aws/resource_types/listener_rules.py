"""ELBv2: the rules that route a deployment's paths, its host, and the test of its new tasks to its target groups.

They are on the listener for HTTPS if the endpoint has one; the listener on 80 then redirects to it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import stamina

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.resource_types.load_balancer import create_listener, find_listener, tags_of
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError, EndpointInUse, ForeignResource, InvalidOption
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources import VARIANT_TAG
from mlflow_fargate.resources.balancer_properties import RedirectProperties
from mlflow_fargate.resources.properties import HostRuleProperties, ListenerRuleProperties, TestRuleProperties

R = TypeVar("R", ListenerRuleProperties, TestRuleProperties, HostRuleProperties)
# Priorities are 1 to 50000; the highest are left for users' catch-all rules.
_PRIORITIES = range(100, 40_000)
# Lower, because a test rule is more specific than the rule with its paths; a load balancer has at most 100 rules.
_TEST_PRIORITIES = range(10, 100)
_TO_HTTPS = {"Type": "redirect", "RedirectConfig": {"Protocol": "HTTPS", "Port": "443", "StatusCode": "HTTP_301"}}
_SOME_LEFT = "redirects to HTTPS, but not every deployment"
_RETRY = stamina.RetryingCaller(attempts=20, wait_initial=0.2, wait_max=2.0)


class RuleType(ResourceType[R]):
    """A rule of the endpoint's listener; with two target groups, ECS sets their weights.

    The groups and weights of variants are not part of it: a change keeps them (see traffic.py).
    """

    priorities = _PRIORITIES

    def create(self, resource: Resource[R], ids: Ids) -> str:
        return _RETRY(_is_priority_taken, self._create, resource, ids)

    def change(self, resource: Resource[R], found: Found[R], ids: Ids) -> str:
        rule = self._session.call("elbv2", "describe_rules", RuleArns=[found.identifier])["Rules"][0]
        conditions = _conditions(resource.properties, rule)
        shares = self._variant_weights(rule, resource)
        if shares:
            own = {ids["target group"]: 100 - sum(shares.values())}
            actions = [forward_to({**own, **shares})]
        else:
            actions = _forward(resource.properties.target_groups, ids, serving=weights_of(rule))
        self._session.call("elbv2", "modify_rule", RuleArn=found.identifier, Conditions=conditions, Actions=actions)
        return found.identifier

    def delete(self, found: Found[Properties]) -> None:
        self._session.delete("elbv2", "delete_rule", RuleArn=found.identifier)

    def _create(self, resource: Resource[R], ids: Ids) -> str:
        # AWS allows two rules for one path, so check whether another client was faster. If two check at the same time,
        # both request the same priority and one is refused.
        found = self.observe(resource, ids)
        if found and not found.is_ours:
            raise tags.refuse_foreign(resource, found.identifier)
        if found:
            return self.change(resource, found, ids)
        # AWS does not assign priorities: use the lowest free one, and retry if another client was faster.
        taken = {rule["Priority"] for rule in self._rules(ids["listener"])}
        priority = next((number for number in self.priorities if str(number) not in taken), None)
        if priority is None:
            raise InvalidOption("The endpoint's listener has no free rule priority.", hint="use another endpoint")
        answer = self._session.call(
            "elbv2",
            "create_rule",
            ListenerArn=ids["listener"],
            Priority=priority,
            Conditions=_conditions(resource.properties),
            Actions=_forward(resource.properties.target_groups, ids, serving={}),
            Tags=tags.capital(resource.tags),
        )
        return str(answer["Rules"][0]["RuleArn"])

    def _rules(self, listener: str | None) -> list[dict[str, Any]]:
        return rules_of(self._session, listener) if listener else []

    def _find(self, path: str, header: str | None, ids: Ids, value: str | None = None) -> dict[str, Any] | None:
        rules = (
            rule for rule in self._rules(ids.get("listener")) if path in _paths(rule) and header_of(rule) == header
        )
        return next((rule for rule in rules if value in (None, header_value(rule))), None)

    def _own_groups(self, rule: Mapping[str, Any], resource: Resource[R]) -> tuple[str, ...]:
        """Names of the target groups."""
        variants = self._variant_weights(rule, resource)
        return tuple(sorted(arn.split("/")[1] for arn in weights_of(rule) if arn not in variants))

    def _variant_weights(self, rule: Mapping[str, Any], resource: Resource[R]) -> dict[str, int]:
        """The weights of variants; tags tell their groups, and are read only if there are more than expected."""
        weights = weights_of(rule)
        if len(weights) <= len(resource.properties.target_groups):
            return {}
        their_tags = tags_of(self._session, list(weights))
        return {arn: weight for arn, weight in weights.items() if VARIANT_TAG in their_tags[arn]}

    def _found(self, rule: Mapping[str, Any], properties: R) -> Found[R]:
        arn = rule["RuleArn"]
        return Found(arn, properties, tags.are_ours(tags_of(self._session, [arn])[arn]))


class ListenerRuleType(RuleType[ListenerRuleProperties]):
    """Routes the paths of one deployment to its target group."""

    def observe(self, resource: Resource[ListenerRuleProperties], ids: Ids) -> Found[ListenerRuleProperties] | None:
        rule = self._find(resource.name, None, ids)
        return (
            self._found(rule, ListenerRuleProperties(_paths(rule), self._own_groups(rule, resource))) if rule else None
        )

    def observe_all(
        self, load_balancer: str, target_group: str, wanted_tags: Mapping[str, str]
    ) -> Iterator[tuple[str, Found[Properties]]]:
        """Yields every rule on the load balancer that forwards to the group and carries the tags, by its ARN."""
        for listener in self._session.pages("elbv2", "describe_listeners", "Listeners", LoadBalancerArn=load_balancer):
            rules = (rule for rule in self._rules(listener["ListenerArn"]) if not rule["IsDefault"])
            arns = [rule["RuleArn"] for rule in rules if target_group in weights_of(rule)]
            for arn, their_tags in tags_of(self._session, arns).items():
                if wanted_tags.items() <= their_tags.items():
                    yield arn, Found(arn, Properties())


class TestRuleType(RuleType[TestRuleProperties]):
    """Routes requests with a header to some tasks: with a variant's name, or with a secret value to the new tasks.

    Only the rule contains the secret value.
    """

    __test__ = False  # its name looks like a test's to pytest
    priorities = _TEST_PRIORITIES

    def observe(self, resource: Resource[TestRuleProperties], ids: Ids) -> Found[TestRuleProperties] | None:
        wanted = resource.properties
        rule = self._find(wanted.paths[-1], wanted.header, ids, wanted.value)
        if rule is None:
            return None
        groups = self._own_groups(rule, resource)
        return self._found(rule, TestRuleProperties(_paths(rule), wanted.header, groups, wanted.value))


class HostRuleType(RuleType[HostRuleProperties]):
    """Routes a deployment's own host name to its target group; found by its tags, whatever the host."""

    def observe(self, resource: Resource[HostRuleProperties], ids: Ids) -> Found[HostRuleProperties] | None:
        rules = {rule["RuleArn"]: rule for rule in self._rules(ids.get("listener")) if _hosts(rule)}
        their_tags = tags_of(self._session, list(rules))
        for arn, rule in rules.items():
            properties = HostRuleProperties(_hosts(rule), self._own_groups(rule, resource))
            if resource.tags.items() <= their_tags[arn].items():
                return Found(arn, properties)
            if resource.is_wanted and properties.hosts == resource.properties.hosts and not _paths(rule):
                return Found(arn, properties, is_ours=False)
        return None


class RedirectListenerType(ResourceType[RedirectProperties]):
    """HTTP on 80, redirecting to HTTPS. If deployments answered there, their rules move to the listener on 443."""

    def observe(self, resource: Resource[RedirectProperties], ids: Ids) -> Found[RedirectProperties] | None:
        listener = find_listener(self._session, ids.get("load balancer"), 80)
        if listener is None:
            return None
        arn = listener["ListenerArn"]
        answers = "answers" if not _is_to_https(listener) else _SOME_LEFT if self._rules_here(arn, resource) else None
        return Found(arn, RedirectProperties(answers) if answers else RedirectProperties())

    def create(self, resource: Resource[RedirectProperties], ids: Ids) -> str:
        return create_listener(self._session, resource, ids, _TO_HTTPS)

    def change(self, resource: Resource[RedirectProperties], found: Found[RedirectProperties], ids: Ids) -> str:
        """Moves the rules one by one, so that at any time each path either answers on port 80 or redirects.

        While any is left, the listener counts as not changed, so the next command finishes what this one has begun.
        """
        rules = self._rules_here(found.identifier, resource)
        self._check_traffic(rules.values())
        if found.properties.port_80 != _SOME_LEFT:
            listener = {"ListenerArn": found.identifier, "DefaultActions": [_TO_HTTPS]}
            self._session.call("elbv2", "modify_listener", **listener)
        for arn, rule in rules.items():
            self._move(rule, resource, ids["listener"])
            self._session.delete("elbv2", "delete_rule", RuleArn=arn)
        return found.identifier

    def delete(self, found: Found[Properties]) -> None:
        self._session.delete("elbv2", "delete_listener", ListenerArn=found.identifier)

    def _rules_here(self, listener: str, resource: Resource[RedirectProperties]) -> dict[str, dict[str, Any]]:
        """Returns the endpoint's rules on the listener, by their ARN; others are users'."""
        rules = {rule["RuleArn"]: rule for rule in rules_of(self._session, listener) if not rule["IsDefault"]}
        their_tags = tags_of(self._session, list(rules))
        return {arn: rule for arn, rule in rules.items() if resource.tags.items() <= their_tags[arn].items()}

    def _check_traffic(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Raises EndpointInUse while ECS shifts traffic: it would go on changing the rule that has moved away."""
        for rule in rules:
            arns = [arn for arn, weight in weights_of(rule).items() if weight > 0]
            if len(arns) > 1 and not any(VARIANT_TAG in theirs for theirs in tags_of(self._session, arns).values()):
                raise EndpointInUse(
                    f"{', '.join(_paths(rule) or _hosts(rule))} cannot move to HTTPS now: ECS is shifting its traffic.",
                    hint="run this command again once that rollout is complete",
                )

    def _move(self, rule: Mapping[str, Any], resource: Resource[RedirectProperties], listener: str) -> None:
        """Makes the rule's copy on `listener`, or brings that of an interrupted command up to date."""
        there = [other for other in rules_of(self._session, listener) if _asks(other) == _asks(rule)]
        their_tags = tags_of(self._session, [rule["RuleArn"], *(other["RuleArn"] for other in there)])
        for other in there:
            if not resource.tags.items() <= their_tags[other["RuleArn"]].items():
                raise ForeignResource(
                    f"The listener on 443 has a rule for {', '.join(_paths(rule) or _hosts(rule))} that "
                    "mlflow-fargate did not create; nothing was moved there.",
                    hint=f"delete or change that rule: {other['RuleArn']}",
                )
            self._session.call("elbv2", "modify_rule", RuleArn=other["RuleArn"], Actions=rule["Actions"])
        if not there:
            _RETRY(_is_priority_taken, self._copy, rule, their_tags[rule["RuleArn"]], listener)

    def _copy(self, rule: Mapping[str, Any], their_tags: Mapping[str, str], listener: str) -> None:
        taken = {other["Priority"] for other in rules_of(self._session, listener)}
        numbers = (number for number in (int(rule["Priority"]), *_PRIORITIES) if str(number) not in taken)
        self._session.call(
            "elbv2",
            "create_rule",
            ListenerArn=listener,
            Priority=next(numbers),
            Conditions=[_short(condition) for condition in rule["Conditions"]],
            Actions=rule["Actions"],
            Tags=tags.capital({key: value for key, value in their_tags.items() if not key.startswith("aws:")}),
        )


def rules_of(session: AwsSession, listener: str) -> list[dict[str, Any]]:
    """Returns the listener's rules, including its default one, as ELBv2 describes them."""
    return list(session.pages("elbv2", "describe_rules", "Rules", ListenerArn=listener))


def header_value(rule: Mapping[str, Any]) -> str:
    """Returns the value that requests need in the rule's header; empty if the rule does not require one."""
    conditions = _conditions_on("http-header", rule)
    return str(conditions[0]["HttpHeaderConfig"]["Values"][0]) if conditions else ""


def forward_to(weights: Mapping[str, int]) -> dict[str, Any]:
    """Returns the action that divides requests among target groups, by ARN, in proportion to their weights."""
    groups = [{"TargetGroupArn": arn, "Weight": weight} for arn, weight in weights.items()]
    return {"Type": "forward", "ForwardConfig": {"TargetGroups": groups}}


def _conditions(wanted: R, before: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Which requests the rule matches; `before` is the existing rule."""
    if isinstance(wanted, HostRuleProperties):
        return [{"Field": "host-header", "HostHeaderConfig": {"Values": list(wanted.hosts)}}]
    paths = {"Field": "path-pattern", "PathPatternConfig": {"Values": list(wanted.paths)}}
    if isinstance(wanted, ListenerRuleProperties):
        return [paths]
    value = wanted.value or (header_value(before) if before else secrets.token_hex(16))
    header = {"HttpHeaderName": wanted.header, "Values": [value]}
    return [paths, {"Field": "http-header", "HttpHeaderConfig": header}]


def _forward(target_groups: Sequence[str], ids: Ids, serving: Mapping[str, int]) -> list[dict[str, Any]]:
    """Forwards to the target group; of two, to the one with the higher weight now, or else to the first."""
    if len(target_groups) == 1:
        return [{"Type": "forward", "TargetGroupArn": ids["target group"]}]
    groups = [ids["target group"], ids["alternate target group"]]
    chosen = max(groups, key=lambda arn: serving.get(arn, 0))
    return [forward_to({arn: 100 if arn == chosen else 0 for arn in groups})]


def weights_of(rule: Mapping[str, Any]) -> dict[str, int]:
    """Returns target group → weight; empty if the rule does not forward."""
    action: Mapping[str, Any] = next((action for action in rule["Actions"] if action["Type"] == "forward"), {})
    groups = action.get("ForwardConfig", {}).get("TargetGroups") or []
    if not groups and "TargetGroupArn" in action:
        groups = [{"TargetGroupArn": action["TargetGroupArn"]}]
    return {group["TargetGroupArn"]: int(group.get("Weight", 1)) for group in groups}


def _asks(rule: Mapping[str, Any]) -> list[str]:
    """What requests must have for the rule, in a form that can be compared."""
    return sorted(repr(sorted(_short(condition).items(), key=str)) for condition in rule["Conditions"])


def _short(condition: Mapping[str, Any]) -> dict[str, Any]:
    """ELBv2 describes simple conditions in two formats, and takes one."""
    return {key: condition[key] for key in condition if key != "Values" or len(condition) == 2}


def _is_to_https(listener: Mapping[str, Any]) -> bool:
    """Whether a listener redirects to HTTPS by default; to where is up to users."""
    return any(
        action.get("RedirectConfig", {}).get("Protocol") == "HTTPS" for action in listener.get("DefaultActions") or ()
    )


def header_of(rule: Mapping[str, Any]) -> str | None:
    """Returns the name of the header that the rule requires; None if there is none."""
    conditions = _conditions_on("http-header", rule)
    return str(conditions[0]["HttpHeaderConfig"]["HttpHeaderName"]) if conditions else None


def _paths(rule: Mapping[str, Any]) -> tuple[str, ...]:
    return _values("path-pattern", "PathPatternConfig", rule)


def _hosts(rule: Mapping[str, Any]) -> tuple[str, ...]:
    return _values("host-header", "HostHeaderConfig", rule)


def _values(field: str, key: str, rule: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        value for condition in _conditions_on(field, rule) for value in condition.get(key, condition).get("Values", ())
    )


def _conditions_on(field: str, rule: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [condition for condition in rule["Conditions"] if condition["Field"] == field]


def _is_priority_taken(error: Exception) -> bool:
    return isinstance(error, AwsError) and error.code.startswith("PriorityInUse")

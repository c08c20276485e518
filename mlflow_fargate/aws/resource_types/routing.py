"""ELBv2: a deployment's target group, and the rule that sends its paths there."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import stamina

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.resource_types.load_balancer import tags_of
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError, InvalidOption
from mlflow_fargate.plan import Found, Resource
from mlflow_fargate.resources import TEST_HEADER

# 1 to 50000 exist; the upper ones are left to rules that people write to catch what no deployment takes.
_PRIORITIES = range(100, 40_000)
# Before those, for a test rule asks for more than the rule whose paths it shares; a load balancer takes 100 rules.
_TEST_PRIORITIES = range(10, 100)


class TargetGroup:
    """Where the tasks of a deployment are registered by ECS, and how their health is asked."""

    def __init__(self, session: AwsSession) -> None:
        self._session = session

    def observe(self, resource: Resource, made: Mapping[str, str]) -> Found | None:
        try:
            group = self._session.call("elbv2", "describe_target_groups", Names=[resource.name])["TargetGroups"][0]
        except AwsError as error:
            if error.code in ("TargetGroupNotFound", "TargetGroupNotFoundException"):
                return None
            raise
        return self._found(group)

    def observe_all(self, made: Mapping[str, str], wanted_tags: Mapping[str, str]) -> list[tuple[str, Found]]:
        """Every target group that carries the tags, whatever its name: the port is part of it and may have changed."""
        groups = {
            group["TargetGroupArn"]: group
            for group in self._session.pages("elbv2", "describe_target_groups", "TargetGroups")
            if group["TargetGroupName"].startswith("mlf-")
        }
        their_tags = tags_of(self._session, list(groups))
        ours = [group for arn, group in groups.items() if wanted_tags.items() <= their_tags[arn].items()]
        return [(group["TargetGroupName"], self._found(group)) for group in ours]

    def create(self, resource: Resource, made: Mapping[str, str]) -> str:
        answer = self._session.call(
            "elbv2",
            "create_target_group",
            Name=resource.name,
            Protocol="HTTP",
            Port=resource.properties["port"],
            VpcId=made["vpc"],
            TargetType="ip",
            Tags=tags.capital(resource.tags),
            **_health_check(resource),
        )
        arn = str(answer["TargetGroups"][0]["TargetGroupArn"])
        self._set_delay(arn, resource)
        return arn

    def change(self, resource: Resource, found: Found, made: Mapping[str, str]) -> str:
        arn = found.identifier
        self._session.call("elbv2", "modify_target_group", TargetGroupArn=arn, **_health_check(resource))
        self._set_delay(arn, resource)
        return arn

    def delete(self, found: Found) -> None:
        self._session.delete("elbv2", "delete_target_group", TargetGroupArn=found.identifier)

    def healthy_count(self, arn: str) -> int:
        """How many registered targets answer."""
        health = self._session.call("elbv2", "describe_target_health", TargetGroupArn=arn)["TargetHealthDescriptions"]
        return sum(target["TargetHealth"]["State"] == "healthy" for target in health)

    def _set_delay(self, arn: str, resource: Resource) -> None:
        delay = str(resource.properties["deregistration_delay_seconds"])
        attributes = [{"Key": "deregistration_delay.timeout_seconds", "Value": delay}]
        self._session.call("elbv2", "modify_target_group_attributes", TargetGroupArn=arn, Attributes=attributes)

    def _found(self, group: Mapping[str, Any]) -> Found:
        arn = group["TargetGroupArn"]
        answer = self._session.call("elbv2", "describe_target_group_attributes", TargetGroupArn=arn)
        attributes = {item["Key"]: item.get("Value") for item in answer["Attributes"]}
        properties = {
            "port": group["Port"],
            "health_check_path": group["HealthCheckPath"],
            "health_check_interval_seconds": group["HealthCheckIntervalSeconds"],
            "health_check_timeout_seconds": group["HealthCheckTimeoutSeconds"],
            "healthy_threshold": group["HealthyThresholdCount"],
            "unhealthy_threshold": group["UnhealthyThresholdCount"],
            "deregistration_delay_seconds": int(attributes["deregistration_delay.timeout_seconds"]),
        }
        return Found(arn, properties, tags.are_ours(tags_of(self._session, [arn])[arn]))


class ListenerRule:
    """Sends the paths of one deployment to its target group; between two, ECS says how many requests each gets."""

    priorities = _PRIORITIES

    def __init__(self, session: AwsSession) -> None:
        self._session = session

    def observe(self, resource: Resource, made: Mapping[str, str]) -> Found | None:
        listener = made.get("listener")
        rules = self._rules(listener) if listener else []
        rule = next((rule for rule in rules if resource.name in _paths(rule) and self._is_meant(rule)), None)
        if rule is None:
            return None
        arn = rule["RuleArn"]
        properties = {"paths": _paths(rule), **_header(rule), "target_groups": sorted(map(_name, _weights(rule)))}
        return Found(arn, properties, tags.are_ours(tags_of(self._session, [arn])[arn]))

    def observe_all(self, load_balancer: str, wanted_tags: Mapping[str, str]) -> Iterator[tuple[str, Found]]:
        """Every rule on the load balancer that carries the tags, by its ARN."""
        for listener in self._session.pages("elbv2", "describe_listeners", "Listeners", LoadBalancerArn=load_balancer):
            arns = [rule["RuleArn"] for rule in self._rules(listener["ListenerArn"]) if not rule["IsDefault"]]
            for arn, their_tags in tags_of(self._session, arns).items():
                if wanted_tags.items() <= their_tags.items():
                    yield arn, Found(arn)

    def create(self, resource: Resource, made: Mapping[str, str]) -> str:
        for attempt in stamina.retry_context(on=_is_priority_taken, attempts=20, wait_initial=0.2, wait_max=2.0):
            with attempt:
                return self._create(resource, made)
        raise AssertionError("unreachable: the last attempt returned or raised")

    def change(self, resource: Resource, found: Found, made: Mapping[str, str]) -> str:
        rule = self._session.call("elbv2", "describe_rules", RuleArns=[found.identifier])["Rules"][0]
        conditions = _conditions(resource, self._value(rule))
        actions = _to(resource, made, serving=_weights(rule))
        self._session.call("elbv2", "modify_rule", RuleArn=found.identifier, Conditions=conditions, Actions=actions)
        return found.identifier

    def delete(self, found: Found) -> None:
        self._session.delete("elbv2", "delete_rule", RuleArn=found.identifier)

    def _create(self, resource: Resource, made: Mapping[str, str]) -> str:
        # AWS allows two rules for one path, so look for that of another deployer who was faster. Of two who look at
        # the same moment, both ask for the same priority and one is refused.
        found = self.observe(resource, made)
        if found and not found.is_ours:
            raise tags.refuse_foreign(resource, found.identifier)
        if found:
            return self.change(resource, found, made)
        # AWS picks no priority for us: take the lowest free one, and look again if someone was faster.
        taken = {rule["Priority"] for rule in self._rules(made["listener"])}
        priority = next((number for number in self.priorities if str(number) not in taken), None)
        if priority is None:
            raise InvalidOption("The endpoint's listener has no free rule priority left.", hint="use another endpoint")
        answer = self._session.call(
            "elbv2",
            "create_rule",
            ListenerArn=made["listener"],
            Priority=priority,
            Conditions=_conditions(resource, self._value(None)),
            Actions=_to(resource, made, serving={}),
            Tags=tags.capital(resource.tags),
        )
        return str(answer["Rules"][0]["RuleArn"])

    def _is_meant(self, rule: Mapping[str, Any]) -> bool:
        return not _header(rule)

    def _value(self, rule: Mapping[str, Any] | None) -> str:
        """Of the header that the rule asks for, if it does."""
        return ""

    def _rules(self, listener: str) -> list[dict[str, Any]]:
        return list(self._session.pages("elbv2", "describe_rules", "Rules", ListenerArn=listener))


class TestRule(ListenerRule):
    """Sends whoever shows the header's value to the new tasks before others: a value that only the rule tells."""

    __test__ = False  # pytest takes its name for a test's
    priorities = _TEST_PRIORITIES

    def _is_meant(self, rule: Mapping[str, Any]) -> bool:
        return _header(rule) == {"header": TEST_HEADER}

    def _value(self, rule: Mapping[str, Any] | None) -> str:
        return read_test_value(rule) if rule else secrets.token_hex(16)


def read_test_value(rule: Mapping[str, Any]) -> str:
    """What requests have to show in the test header, as the rule has it; empty where it asks for none."""
    conditions = [condition for condition in rule["Conditions"] if condition["Field"] == "http-header"]
    return str(conditions[0]["HttpHeaderConfig"]["Values"][0]) if conditions else ""


class HostRule(ListenerRule):
    """Sends everything under a deployment's own host name to its target group; found by its tags, whatever the host."""

    def observe(self, resource: Resource, made: Mapping[str, str]) -> Found | None:
        listener = made.get("listener")
        rules = {rule["RuleArn"]: rule for rule in (self._rules(listener) if listener else []) if _hosts(rule)}
        their_tags = tags_of(self._session, list(rules))
        for arn, rule in rules.items():
            properties = {"hosts": _hosts(rule), "target_groups": sorted(map(_name, _weights(rule)))}
            if resource.tags.items() <= their_tags[arn].items():
                return Found(arn, properties)
            if resource.is_wanted and properties["hosts"] == resource.properties["hosts"] and not _paths(rule):
                return Found(arn, properties, is_ours=False)
        return None


def _health_check(resource: Resource) -> dict[str, Any]:
    wanted = resource.properties
    return {
        "HealthCheckProtocol": "HTTP",
        "HealthCheckPath": wanted["health_check_path"],
        "HealthCheckIntervalSeconds": wanted["health_check_interval_seconds"],
        "HealthCheckTimeoutSeconds": wanted["health_check_timeout_seconds"],
        "HealthyThresholdCount": wanted["healthy_threshold"],
        "UnhealthyThresholdCount": wanted["unhealthy_threshold"],
        "Matcher": {"HttpCode": "200"},
    }


def _conditions(resource: Resource, value: str) -> list[dict[str, Any]]:
    wanted = resource.properties
    if "hosts" in wanted:
        return [{"Field": "host-header", "HostHeaderConfig": {"Values": list(wanted["hosts"])}}]
    paths = {"Field": "path-pattern", "PathPatternConfig": {"Values": list(wanted["paths"])}}
    if "header" not in wanted:
        return [paths]
    header = {"HttpHeaderName": wanted["header"], "Values": [value]}
    return [paths, {"Field": "http-header", "HttpHeaderConfig": header}]


def _to(resource: Resource, made: Mapping[str, str], serving: Mapping[str, int]) -> list[dict[str, Any]]:
    """To the target group; of two, all to the one that serves (by the weights that stand), or else to the first."""
    if len(resource.properties["target_groups"]) == 1:
        return [{"Type": "forward", "TargetGroupArn": made["target group"]}]
    groups = [made["target group"], made["alternate target group"]]
    chosen = max(groups, key=lambda arn: serving.get(arn, 0))
    weights = [{"TargetGroupArn": arn, "Weight": 100 if arn == chosen else 0} for arn in groups]
    return [{"Type": "forward", "ForwardConfig": {"TargetGroups": weights}}]


def _weights(rule: Mapping[str, Any]) -> dict[str, int]:
    """Target group → weight; empty where the rule does something else than to forward."""
    action: Mapping[str, Any] = next((action for action in rule["Actions"] if action["Type"] == "forward"), {})
    groups = action.get("ForwardConfig", {}).get("TargetGroups") or []
    if not groups and "TargetGroupArn" in action:
        groups = [{"TargetGroupArn": action["TargetGroupArn"]}]
    return {group["TargetGroupArn"]: int(group.get("Weight", 1)) for group in groups}


def _name(arn: str) -> str:
    return arn.split("/")[1]


def _header(rule: Mapping[str, Any]) -> dict[str, str]:
    """{"header": NAME} of a rule that asks for one."""
    conditions = [condition for condition in rule["Conditions"] if condition["Field"] == "http-header"]
    return {"header": conditions[0]["HttpHeaderConfig"]["HttpHeaderName"]} if conditions else {}


def _paths(rule: Mapping[str, Any]) -> list[str]:
    conditions = [condition for condition in rule["Conditions"] if condition["Field"] == "path-pattern"]
    return [value for condition in conditions for value in condition.get("PathPatternConfig", condition)["Values"]]


def _hosts(rule: Mapping[str, Any]) -> list[str]:
    conditions = [condition for condition in rule["Conditions"] if condition["Field"] == "host-header"]
    return [value for condition in conditions for value in condition.get("HostHeaderConfig", condition)["Values"]]


def _is_priority_taken(error: Exception) -> bool:
    return isinstance(error, AwsError) and error.code.startswith("PriorityInUse")

"""Routes requests to processes: moto's listeners and rules, with the engine's tasks as targets.

All load balancers of the stack share one address, so their rules are in one list, those of the first load balancer
first. A rule that the local load balancer does not support (redirects, query conditions) is skipped and logged.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from botocore.exceptions import ClientError

from mlflow_fargate.local.engine.state import Task
from mlflow_fargate.local.engine.store import EcsStore
from mlflow_fargate.local.engine.traffic import groups_of
from mlflow_fargate.local.load_balancer.rules import DEFAULT_RULE, FixedResponse, RoutingRule, WeightedTargets
from mlflow_fargate.local.moto_client import MotoClient

logger = logging.getLogger(__name__)

_IDLE_TIMEOUT = "idle_timeout.timeout_seconds"
_RULES_PER_LISTENER = 50_001  # priorities go up to 50,000


class RouteTaker(Protocol):
    """The part of the load balancer that sets routes."""

    def set_routes(self, rules: Iterable[RoutingRule], default: RoutingRule = ...) -> None: ...


@dataclass(frozen=True)
class ListenerRule:
    """A rule as requested, with target groups instead of targets."""

    priority: int
    path_patterns: tuple[str, ...] = ()
    host_patterns: tuple[str, ...] = ()
    header_patterns: tuple[tuple[str, tuple[str, ...]], ...] = ()  # name → one of these
    groups: tuple[tuple[str, int], ...] = ()  # ARN and weight
    fixed_response: FixedResponse | None = None
    is_default: bool = False
    idle_timeout_seconds: float | None = None


class RouteTable:
    """Keeps the load balancer's rules current: `refresh` after moto's rules changed, `push` after tasks did."""

    def __init__(self, aws: MotoClient, store: EcsStore, load_balancer: RouteTaker) -> None:
        self._aws = aws
        self._store = store
        self._load_balancer = load_balancer
        self._wanted: tuple[ListenerRule, ...] = ()
        self._pushed: tuple[RoutingRule, ...] | None = None
        self._is_stale = threading.Event()
        self._pushing = threading.Lock()  # so that an older table cannot replace a newer one

    def listeners_changed(self) -> None:
        """Marks load balancers, listeners, rules or target groups as changed; the next turn reads them again."""
        self._is_stale.set()
        self._store.changed.set()

    def refresh(self) -> None:
        if self._is_stale.is_set():
            self._is_stale.clear()
            self._wanted = tuple(self._read())
        self.push()

    def push(self) -> None:
        """Passes the rules to the load balancer if they changed."""
        with self._pushing:
            rules = make_rules(self._wanted, self._store.tasks())
            if rules != self._pushed:
                self._load_balancer.set_routes(rules[:-1], rules[-1])
                self._pushed = rules

    def _read(self) -> Iterable[ListenerRule]:
        client = self._aws.client("elbv2")
        number = 0
        for load_balancer in client.get_paginator("describe_load_balancers").paginate().search("LoadBalancers[]"):
            arn = load_balancer["LoadBalancerArn"]
            try:
                said = client.describe_load_balancer_attributes(LoadBalancerArn=arn)["Attributes"]
                idle = next((float(one["Value"]) for one in said if one["Key"] == _IDLE_TIMEOUT), None)
                listeners = client.describe_listeners(LoadBalancerArn=arn)["Listeners"]
                for listener in listeners:
                    pages = client.get_paginator("describe_rules").paginate(ListenerArn=listener["ListenerArn"])
                    rules = [parse_rule(rule, number * _RULES_PER_LISTENER) for rule in pages.search("Rules[]")]
                    yield from (replace(rule, idle_timeout_seconds=idle) for rule in rules if rule is not None)
                    number += 1
            except ClientError as error:
                logger.info("%s was deleted while it was being read: %s", arn, error)


def parse_rule(rule: Mapping[str, Any], offset: int) -> ListenerRule | None:
    """Returns the rule with `offset` added to its priority; None if the local load balancer does not support it."""
    patterns: dict[str, tuple[str, ...]] = {"path-pattern": (), "host-header": ()}
    headers = []
    for condition in rule.get("Conditions") or ():
        if condition["Field"] == "http-header":
            header = condition["HttpHeaderConfig"]
            headers.append((header["HttpHeaderName"], tuple(header["Values"])))
            continue
        if condition["Field"] not in patterns:
            logger.warning("%s: condition %s is not supported locally", rule["RuleArn"], condition["Field"])
            return None
        config = condition.get("PathPatternConfig") or condition.get("HostHeaderConfig") or condition
        patterns[condition["Field"]] = tuple(config.get("Values") or ())
    action = (rule.get("Actions") or [{}])[-1]
    fixed_response = _fixed_response(action)
    groups = tuple(groups_of(action).items())
    if fixed_response is None and not groups:
        logger.info("%s: action %s is not supported locally", rule["RuleArn"], action.get("Type"))
        return None
    is_default = bool(rule.get("IsDefault"))
    return ListenerRule(
        priority=offset + (_RULES_PER_LISTENER - 1 if is_default else int(rule["Priority"])),
        path_patterns=patterns["path-pattern"],
        host_patterns=patterns["host-header"],
        header_patterns=tuple(headers),
        groups=groups,
        fixed_response=fixed_response,
        is_default=is_default,
    )


def make_rules(wanted: Iterable[ListenerRule], tasks: Iterable[Task]) -> tuple[RoutingRule, ...]:
    """Returns the load balancer's rules in order, ending with the first listener's default rule."""
    known = list(tasks)
    rules = [_with_targets(rule, known) for rule in wanted if not rule.is_default]
    defaults = [_with_targets(rule, known) for rule in wanted if rule.is_default]
    return (*rules, defaults[0] if defaults else DEFAULT_RULE)


def _with_targets(rule: ListenerRule, tasks: list[Task]) -> RoutingRule:
    return RoutingRule(
        priority=rule.priority,
        path_patterns=rule.path_patterns,
        host_patterns=rule.host_patterns,
        header_patterns=rule.header_patterns,
        targets=tuple(
            WeightedTargets(_targets(arn, tasks), weight, arn.rpartition(":")[2]) for arn, weight in rule.groups
        ),
        fixed_response=rule.fixed_response,
        idle_timeout_seconds=rule.idle_timeout_seconds,
    )


def _targets(arn: str, tasks: list[Task]) -> tuple[tuple[str, int], ...]:
    """Returns the addresses of the group's healthy targets; without any, of the unhealthy ones: an ALB fails open."""
    by_state: dict[str, list[tuple[str, int]]] = {"healthy": [], "unhealthy": []}
    for task in tasks:
        health = dict(task.targets).get(arn)
        if health is not None and health.state in by_state and task.host_port is not None:
            by_state[health.state].append(("127.0.0.1", task.host_port))
    return tuple(by_state["healthy"] or by_state["unhealthy"])


def _fixed_response(action: Mapping[str, Any]) -> FixedResponse | None:
    config = action.get("FixedResponseConfig")
    if not config:
        return None
    return FixedResponse(
        int(config["StatusCode"]), config.get("MessageBody", ""), config.get("ContentType") or "text/plain"
    )

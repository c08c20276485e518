"""Existing load balancers that a deployment uses, found by the ARN of the balancer, a listener or a target group.

They are never changed or deleted; only a rule for the deployment is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.plan import TypeName


@dataclass(frozen=True)
class ExistingLoadBalancer:
    """Its location, and the ARNs of its parts."""

    vpc: str
    subnets: tuple[str, ...]
    identifiers: Mapping[TypeName, str]
    url: str  # without a path


def find_existing_load_balancer(session: AwsSession, config: DeploymentConfig) -> ExistingLoadBalancer | None:
    """Returns the load balancer that the options name; None if they do not name one."""
    identifiers: dict[TypeName, str] = {}
    if config.target_group_arn:
        group = describe_target_group(session, config.target_group_arn)
        balancers = group.get("LoadBalancerArns") or []
        if not balancers:
            raise InvalidOption(
                f"Target group {config.target_group_arn} is not attached to a load balancer.",
                hint="ECS requires one: add the target group to a listener's rule or default action first",
            )
        listener = _choose_listener(session, balancers[0])
        identifiers["target group"] = config.target_group_arn
    elif config.listener_arn or config.load_balancer_arn:
        listener = (
            _describe_listener(session, config.listener_arn)
            if config.listener_arn
            else _choose_listener(session, config.load_balancer_arn or "")
        )
        identifiers["listener"] = listener["ListenerArn"]
    else:
        return None
    balancer = describe_balancer(session, listener["LoadBalancerArn"])
    identifiers["load balancer"] = balancer["LoadBalancerArn"]
    subnets = tuple(sorted(zone["SubnetId"] for zone in balancer["AvailabilityZones"]))
    return ExistingLoadBalancer(balancer["VpcId"], subnets, identifiers, _url(balancer, listener))


def describe_target_group(session: AwsSession, arn: str) -> dict[str, Any]:
    """Returns the target group as ELBv2 describes it."""
    groups: list[dict[str, Any]] = session.call("elbv2", "describe_target_groups", TargetGroupArns=[arn])[
        "TargetGroups"
    ]
    return groups[0]


def describe_balancer(session: AwsSession, arn: str) -> dict[str, Any]:
    """Returns the load balancer as ELBv2 describes it."""
    balancers: list[dict[str, Any]] = session.call("elbv2", "describe_load_balancers", LoadBalancerArns=[arn])[
        "LoadBalancers"
    ]
    return balancers[0]


def _describe_listener(session: AwsSession, arn: str) -> dict[str, Any]:
    listeners: list[dict[str, Any]] = session.call("elbv2", "describe_listeners", ListenerArns=[arn])["Listeners"]
    return listeners[0]


def _choose_listener(session: AwsSession, load_balancer: str) -> dict[str, Any]:
    """The listener on 443, else the one on 80, else the first."""
    listeners = list(session.pages("elbv2", "describe_listeners", "Listeners", LoadBalancerArn=load_balancer))
    if not listeners:
        raise InvalidOption(
            f"Load balancer '{load_balancer}' has no listener.", hint="create a listener first, on port 443"
        )
    return min(listeners, key=lambda listener: (listener["Port"] != 443, listener["Port"] != 80))


def _url(balancer: Mapping[str, Any], listener: Mapping[str, Any]) -> str:
    port = "" if listener["Port"] in (80, 443) else f":{listener['Port']}"
    return f"{listener['Protocol'].lower()}://{balancer['DNSName']}{port}"

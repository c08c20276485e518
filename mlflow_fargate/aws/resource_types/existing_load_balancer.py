"""Doors that somebody else made: a listener, a load balancer or a bare target group that a deployment is put behind.

They are looked at and used, never changed or deleted: the only thing that is added is a rule of the deployment's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.errors import InvalidOption


@dataclass(frozen=True)
class Door:
    """An adopted way in: where it is, and what ELBv2 calls its parts (by our kinds of resource)."""

    vpc: str
    subnets: tuple[str, ...]  # of the load balancer
    identifiers: Mapping[str, str]
    url: str  # without a path


def find_door(session: AwsSession, config: DeploymentConfig) -> Door | None:
    """What the options name; None when they name nothing to adopt."""
    if config.target_group_arn:
        group = describe_target_group(session, config.target_group_arn)
        balancers = group.get("LoadBalancerArns") or []
        if not balancers:
            raise InvalidOption(
                f"The target group {config.target_group_arn} hangs on no load balancer.",
                hint="name it in a rule or as the default of a listener first; ECS refuses it otherwise",
            )
        balancer = _describe_balancer(session, balancers[0])
        listener = _choose_listener(session, balancers[0])
        made = {"target group": config.target_group_arn}
    elif config.listener_arn or config.load_balancer_arn:
        listener = (
            _describe_listener(session, config.listener_arn)
            if config.listener_arn
            else _choose_listener(session, config.load_balancer_arn or "")
        )
        balancer = _describe_balancer(session, listener["LoadBalancerArn"])
        made = {"listener": listener["ListenerArn"]}
    else:
        return None
    subnets = tuple(sorted(zone["SubnetId"] for zone in balancer["AvailabilityZones"]))
    made["load balancer"] = balancer["LoadBalancerArn"]
    return Door(balancer["VpcId"], subnets, made, _url(balancer, listener))


def describe_target_group(session: AwsSession, arn: str) -> dict[str, Any]:
    """The target group as ELBv2 describes it."""
    groups: list[dict[str, Any]] = session.call("elbv2", "describe_target_groups", TargetGroupArns=[arn])[
        "TargetGroups"
    ]
    return groups[0]


def _describe_balancer(session: AwsSession, arn: str) -> dict[str, Any]:
    balancers: list[dict[str, Any]] = session.call("elbv2", "describe_load_balancers", LoadBalancerArns=[arn])[
        "LoadBalancers"
    ]
    return balancers[0]


def _describe_listener(session: AwsSession, arn: str) -> dict[str, Any]:
    listeners: list[dict[str, Any]] = session.call("elbv2", "describe_listeners", ListenerArns=[arn])["Listeners"]
    return listeners[0]


def _choose_listener(session: AwsSession, load_balancer: str) -> dict[str, Any]:
    """The one on 443, else the one on 80, else the first."""
    listeners = list(session.pages("elbv2", "describe_listeners", "Listeners", LoadBalancerArn=load_balancer))
    if not listeners:
        raise InvalidOption(f"The load balancer {load_balancer} has no listener.", hint="make one first, on port 443")
    return min(listeners, key=lambda listener: (listener["Port"] != 443, listener["Port"] != 80))


def _url(balancer: Mapping[str, Any], listener: Mapping[str, Any]) -> str:
    port = "" if listener["Port"] in (80, 443) else f":{listener['Port']}"
    return f"{listener['Protocol'].lower()}://{balancer['DNSName']}{port}"

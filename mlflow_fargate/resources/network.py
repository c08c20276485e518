"""Which subnets the load balancer and the tasks use, and whether tasks get public addresses. Pure.

A subnet is public if its route table leads to an internet gateway. The load balancer has one subnet in each of at least
two zones, and routes only to tasks in these zones. Mistakes are found here, before anything is created.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.resources.specs import Network

# other: a transit gateway, VPN, peering connection, network interface or firewall. What is behind it is not known.
WayOut = Literal["internet gateway", "NAT", "other", "none"]
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/AWS_Fargate-Regions.html
_FARGATE_ZONES = {
    "us-west-1": {"usw1-az1", "usw1-az3"},
    "ap-northeast-1": {"apne1-az1", "apne1-az2", "apne1-az4"},
    "cn-north-1": {"cnn1-az1", "cnn1-az2"},
}
# https://docs.aws.amazon.com/elasticloadbalancing/latest/application/application-load-balancers.html
BALANCER_ADDRESSES = 8
# The services that every task uses before the model's code runs.
# https://docs.aws.amazon.com/AmazonECR/latest/userguide/vpc-endpoints.html
_TASK_SERVICES = ("ecr.api", "ecr.dkr", "s3", "logs")
# List prices of us-east-1, 2026-09; a month has 730 hours. Gateway endpoints (S3) are free.
_ENDPOINT_MONTH, _NAT_MONTH = 0.01 * 730, 0.045 * 730
_SUBNETS = "choose others with subnets= (tasks) and load_balancer_subnets="


@dataclass(frozen=True)
class Subnet:
    """A subnet and where its route table leads."""

    id: str
    zone: str
    free_addresses: int
    way_out: WayOut
    zone_id: str = ""
    is_default: bool = False
    gateway_services: frozenset[str] = frozenset()  # services with a gateway endpoint in its route table
    is_shared: bool = False  # of another account, whose VPC endpoints are not visible
    is_on_outpost: bool = False

    @property
    def is_public(self) -> bool:
        return self.way_out == "internet gateway"


@dataclass(frozen=True)
class NetworkFacts:
    """A VPC, its subnets, and the AWS services with an interface endpoint in it ('ecr.api', 'logs', …).

    `unnamed_services`: those whose endpoint has no private DNS names, so tasks find it only by names that you create.
    """

    vpc: str
    subnets: tuple[Subnet, ...]
    endpoint_services: frozenset[str]
    region: str = ""
    unnamed_services: frozenset[str] = frozenset()


def choose_network(facts: NetworkFacts, config: DeploymentConfig, standing: Sequence[str] = ()) -> Network:
    """Returns where the load balancer and the tasks run; `standing`: the subnets of a load balancer that exists.

    Raises InvalidOption if AWS would refuse this, or if tasks there could certainly not start.
    """
    by_id = {subnet.id: subnet for subnet in facts.subnets}
    named = [by_id[name] for name in config.subnets]
    if config.load_balancer_subnets:
        balancer = [by_id[name] for name in config.load_balancer_subnets]
        _check_balancer(facts, balancer, is_internal=config.scheme == "internal")
    else:
        balancer = [by_id[name] for name in standing] or _choose_for_balancer(facts, named, config.scheme or "")
    tasks = named or [subnet for subnet in balancer if _has_fargate(subnet, facts.region)]
    _check_tasks(facts, tasks, balancer)
    is_public = any(subnet.is_public for subnet in tasks)
    assigns = is_public if config.assign_public_ip is None else config.assign_public_ip
    uncertain = _check_reach(facts, tasks, config, assigns=assigns)
    shown = f"tasks: in {_list(tasks)} ({_describe(tasks)}), {'with' if assigns else 'without'} public IP addresses"
    notes = [f"load balancer: in {_list(balancer)}; {shown}", *uncertain]
    ids = tuple(sorted(subnet.id for subnet in balancer))
    return Network(facts.vpc, tuple(sorted(subnet.id for subnet in tasks)), {}, ids, assigns, tuple(notes))


def _choose_for_balancer(facts: NetworkFacts, named: Sequence[Subnet], scheme: str) -> list[Subnet]:
    """One subnet in each zone, preferably of those `named` for the tasks; with these, only their zones and one more."""
    is_internal = scheme == "internal"
    regional = [subnet for subnet in facts.subnets if _is_regional(subnet, facts.region)]
    by_zone: dict[str, Subnet] = {}
    for subnet in sorted(regional, key=lambda it: _preference(it, named, is_internal=is_internal)):
        if is_internal or subnet.is_public:
            by_zone.setdefault(subnet.zone, subnet)
    if len(by_zone) < 2:
        kind = "" if is_internal else "public "
        raise InvalidOption(
            f"A load balancer requires {kind}subnets in two availability zones; VPC {facts.vpc} has fewer.",
            hint=f"{_SUBNETS}, or create public subnets"
            + ("" if is_internal else "; for a load balancer that only your network reaches: scheme=internal"),
        )
    zones = {subnet.zone for subnet in named}
    chosen = [subnet for zone, subnet in by_zone.items() if zone in zones or not named]
    others = [subnet for zone, subnet in by_zone.items() if zone not in zones]
    return chosen if len(chosen) >= 2 else [*chosen, *others[: 2 - len(chosen)]]


def _preference(subnet: Subnet, named: Sequence[Subnet], *, is_internal: bool) -> tuple[object, ...]:
    is_short = subnet.free_addresses < BALANCER_ADDRESSES
    order = ("NAT", "other", "internet gateway", "none") if is_internal else ()
    way = order.index(subnet.way_out) if order else 0
    return subnet not in named, is_short, way, not subnet.is_default, subnet.id


def _check_balancer(facts: NetworkFacts, balancer: Sequence[Subnet], *, is_internal: bool) -> None:
    zones = [subnet.zone for subnet in balancer]
    if len(set(zones)) < 2 or len(zones) > len(set(zones)):
        raise InvalidOption(
            f"A load balancer requires one subnet in each of at least two availability zones, not {_list(balancer)}.",
            hint="change load_balancer_subnets=",
        )
    if wrong := [it for it in balancer if not _is_regional(it, facts.region)]:
        raise InvalidOption(f"{_list(wrong)}: a Local Zone or an Outpost.", hint="change load_balancer_subnets=")
    if wrong := [it for it in balancer if not is_internal and it.way_out in ("NAT", "none")]:
        raise InvalidOption(
            f"{_list(wrong)}: no route to an internet gateway, which an internet-facing load balancer requires.",
            hint="choose public subnets with load_balancer_subnets=, or set scheme=internal",
        )
    if wrong := [it for it in balancer if it.free_addresses < BALANCER_ADDRESSES]:
        raise InvalidOption(
            f"{_list(wrong)}: a load balancer requires {BALANCER_ADDRESSES} free addresses in each of its subnets.",
            hint="choose larger subnets with load_balancer_subnets=",
        )


def _check_tasks(facts: NetworkFacts, tasks: Sequence[Subnet], balancer: Sequence[Subnet]) -> None:
    if not tasks:
        raise InvalidOption(f"None of {_list(balancer)} is in a zone with Fargate.", hint="set subnets= for the tasks")
    if wrong := [it for it in tasks if not _has_fargate(it, facts.region)]:
        places = ", ".join(f"{it.id} in {it.zone}" for it in wrong)
        raise InvalidOption(f"Fargate does not run in every zone: {places}.", hint="choose others with subnets=")
    zones = {subnet.zone for subnet in balancer}
    if wrong := [it for it in tasks if it.zone not in zones]:
        raise InvalidOption(
            f"{_list(wrong)}: the load balancer has no subnet in {', '.join(sorted({it.zone for it in wrong}))}, so it "
            "would send no requests to tasks there.",
            hint="add a subnet in that zone with load_balancer_subnets=, or choose others with subnets=",
        )
    if not any(subnet.free_addresses for subnet in tasks):
        raise InvalidOption(f"{_list(tasks)}: no free addresses for tasks.", hint="choose others with subnets=")


def _check_reach(facts: NetworkFacts, tasks: Sequence[Subnet], config: DeploymentConfig, *, assigns: bool) -> list[str]:
    """Returns warnings; raises InvalidOption if the route tables prove that a task could not be started."""
    needed = _needed_services(config)
    closed = [it for it in tasks if it.way_out == "none" or (it.is_public and not assigns)]
    missing = _missing_services(facts, closed, needed)
    certain = [service for service in needed if service not in facts.unnamed_services]
    proven = [it for it in closed if _missing_services(facts, [it], certain) and not it.is_shared]
    if proven:
        raise InvalidOption(
            f"Tasks in {_list(proven)} could not be started: no route to {', '.join(missing)}"
            + (" without a public IP address." if any(it.is_public for it in proven) else "."),
            hint=_way_out_hint(missing, zones=len({it.zone for it in tasks}), is_public=proven[0].is_public),
        )
    unsure = [it for it in tasks if it.way_out == "other" or it in closed]
    if unknown := [it for it in unsure if _missing_services(facts, [it], needed)]:
        what = "through another network, or VPC endpoints of another account or without private DNS names"
        return [f"warning: {_list(unknown)} must reach {', '.join(needed)} {what}, which cannot be checked from here"]
    return []


def _needed_services(config: DeploymentConfig) -> tuple[str, ...]:
    of_secrets = {"secretsmanager" if ":secretsmanager:" in value else "ssm" for value in config.secrets.values()}
    return *_TASK_SERVICES, *sorted(of_secrets | ({"secretsmanager"} if config.auth == "api_key" else set()))


def _missing_services(facts: NetworkFacts, subnets: Iterable[Subnet], needed: Sequence[str]) -> list[str]:
    """Returns the needed services for which at least one of these subnets has no VPC endpoint."""
    there = [facts.endpoint_services | subnet.gateway_services for subnet in subnets]
    return [service for service in needed if any(service not in one for one in there)]


def _way_out_hint(missing: Sequence[str], *, zones: int, is_public: bool = False) -> str:
    """Returns what would connect the subnets with the `missing` services, and its monthly cost."""
    paid = sum(service != "s3" for service in missing) * _ENDPOINT_MONTH * max(1, zones)
    return (
        ("set assign_public_ip=true, or " if is_public else "")
        + f"add VPC endpoints for {', '.join(missing)} (about USD {paid:.0f} per month in {zones} zone"
        f"{'s' if zones > 1 else ''}), or a NAT gateway (about USD {_NAT_MONTH:.0f}, plus traffic)"
    )


def _is_regional(subnet: Subnet, region: str) -> bool:
    """Whether it is in an availability zone of the region: 'us-west-2-lax-1a' is a Local Zone."""
    return not subnet.is_on_outpost and (
        not region or re.fullmatch(re.escape(region) + "[a-z]", subnet.zone) is not None
    )


def _has_fargate(subnet: Subnet, region: str) -> bool:
    return _is_regional(subnet, region) and subnet.zone_id in _FARGATE_ZONES.get(region, {subnet.zone_id})


def _list(subnets: Sequence[Subnet]) -> str:
    return ", ".join(sorted(subnet.id for subnet in subnets))


def _describe(subnets: Sequence[Subnet]) -> str:
    """'public', 'private, NAT'"""
    kinds = {"internet gateway": "public", "NAT": "private, NAT", "other": "private", "none": "private, VPC endpoints"}
    return " and ".join(sorted({kinds[subnet.way_out] for subnet in subnets}))

"""Elastic Load Balancing as the gateway serves it: load balancers at the local address, target health from the engine.

The rest is moto, plus checks that moto lacks: a second load balancer with the same name, a second listener on one port.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

from botocore.exceptions import ClientError

from mlflow_fargate.local.api.protocol import AwsRequest, Forward, Refusal, Response, xml_response
from mlflow_fargate.local.engine.state import TargetHealth
from mlflow_fargate.local.engine.store import EcsStore
from mlflow_fargate.local.moto_client import MotoClient

_DNS_NAME = re.compile(rb"<DNSName>[^<]*</DNSName>")
_REGISTERED = {"RUNNING", "DEACTIVATING"}
_UNKNOWN_TARGET = TargetHealth("unused", "Target.NotRegistered", "Target is not registered to the target group")


class ElbApi:
    """Responds to requests to Elastic Load Balancing; calls `on_change` after each one that can change routes."""

    def __init__(
        self, address: str, store: EcsStore, aws: MotoClient, forward: Forward, on_change: Callable[[], None]
    ) -> None:
        self._address = address  # host:port where the load balancer listens
        self._store = store
        self._aws = aws
        self._forward = forward
        self._on_change = on_change

    def __call__(self, request: AwsRequest) -> Response:
        if request.operation == "DescribeTargetHealth" and self._is_ours(request):
            return self._describe_target_health(request)
        if request.operation == "CreateLoadBalancer":
            return self._create_load_balancer(request)
        if request.operation == "CreateTargetGroup":
            return self._create_target_group(request)
        if request.operation == "CreateListener":
            self._refuse_second_listener(request)
        response = self._forward(request)
        if not request.operation.startswith("Describe"):
            self._on_change()
        return self._with_address(response)

    def _with_address(self, response: Response) -> Response:
        if b"<DNSName>" not in response.body:
            return response
        name = f"<DNSName>{escape(self._address)}</DNSName>".encode()
        return response.with_body(_DNS_NAME.sub(name, response.body))

    def _create_load_balancer(self, request: AwsRequest) -> Response:
        """Creates a load balancer; like AWS, returns an existing one of the same name and kind."""
        name = request.parameters.get("Name", "")
        present = self._find("describe_load_balancers", "LoadBalancers", name)
        if present is None:
            return self._with_address(self._forward(request))
        wanted = (request.parameters.get("Type", "application"), request.parameters.get("Scheme", "internet-facing"))
        if wanted != (present.get("Type"), present.get("Scheme", "internet-facing")):
            raise Refusal(
                "DuplicateLoadBalancerName",
                f"A load balancer with the same name '{name}' exists, but with different settings",
            )
        return self._with_address(self._describe_instead(request, "DescribeLoadBalancers"))

    def _create_target_group(self, request: AwsRequest) -> Response:
        """Creates a target group; returns an existing one of the same name and settings, which moto refuses."""
        given = request.parameters
        present = self._find("describe_target_groups", "TargetGroups", given.get("Name", ""))
        same = ("Protocol", "Port", "VpcId", "TargetType", "HealthCheckPath")
        if present is None or any(str(present.get(key)) != given[key] for key in same if key in given):
            return self._forward(request)
        return self._describe_instead(request, "DescribeTargetGroups")

    def _describe_instead(self, request: AwsRequest, operation: str) -> Response:
        """Returns `operation`'s response for the name as the response to the request; both have the same shape."""
        name = {"Names.member.1": request.parameters["Name"]}
        version = {"Version": request.parameters.get("Version", "2015-12-01")}
        plain = AwsRequest(request.service, request.region, operation, {}, request.environ, b"")
        response = self._forward(plain.with_form(Action=operation, **version, **name))
        return response.with_body(response.body.replace(operation.encode(), request.operation.encode()))

    def _find(self, operation: str, key: str, name: str) -> dict[str, Any] | None:
        try:
            found: list[dict[str, Any]] = getattr(self._aws.client("elbv2"), operation)(Names=[name])[key]
        except ClientError:
            return None  # not found
        return found[0] if found else None

    def _refuse_second_listener(self, request: AwsRequest) -> None:
        arn, port = request.parameters.get("LoadBalancerArn", ""), request.parameters.get("Port", "")
        try:
            listeners = self._aws.client("elbv2").describe_listeners(LoadBalancerArn=arn)["Listeners"]
        except ClientError:
            return  # moto reports what is wrong with it
        if any(str(listener.get("Port")) == port for listener in listeners):
            raise Refusal("DuplicateListener", f"A listener already exists on this port for this load balancer '{arn}'")

    def _is_ours(self, request: AwsRequest) -> bool:
        arn = request.parameters.get("TargetGroupArn")
        services = self._store.services()
        return any(
            arn in binding.groups
            for service in services
            if service.status != "INACTIVE"
            for binding in service.bindings
        )

    def _describe_target_health(self, request: AwsRequest) -> Response:
        arn = request.parameters["TargetGroupArn"]
        ports = self._ports(arn)
        known: dict[tuple[str, int], TargetHealth] = {}
        for task in self._store.tasks():
            health = dict(task.targets).get(arn)
            if health is not None and task.last_status in _REGISTERED:
                known[task.ip, ports.get(task.service_arn, 0)] = health
        wanted = _asked_targets(request)
        if wanted:
            shown = {
                (ip, port or next((known_port for known_ip, known_port in known if known_ip == ip), 0)): health
                for ip, port in wanted
                for health in [_find_target(known, ip, port)]
            }
        else:
            shown = known
        members = "".join(_show_target(ip, port, health) for (ip, port), health in shown.items())
        return xml_response(request.operation, f"<TargetHealthDescriptions>{members}</TargetHealthDescriptions>")

    def _ports(self, target_group_arn: str) -> dict[str, int]:
        return {
            service.arn: binding.container_port
            for service in self._store.services()
            for binding in service.bindings
            if target_group_arn in binding.groups
        }


def _asked_targets(request: AwsRequest) -> list[tuple[str, int | None]]:
    targets = []
    number = 1
    while ip := request.parameters.get(f"Targets.member.{number}.Id"):
        port = request.parameters.get(f"Targets.member.{number}.Port")
        targets.append((ip, int(port) if port else None))
        number += 1
    return targets


def _find_target(known: dict[tuple[str, int], TargetHealth], ip: str, port: int | None) -> TargetHealth:
    for (known_ip, known_port), health in known.items():
        if known_ip == ip and port in (None, known_port):
            return health
    return _UNKNOWN_TARGET


def _show_target(ip: str, port: int, health: TargetHealth) -> str:
    reason = f"<Reason>{escape(health.reason)}</Reason>" if health.reason else ""
    description = f"<Description>{escape(health.description)}</Description>" if health.description else ""
    return (
        f"<member><HealthCheckPort>{port}</HealthCheckPort><Target><Id>{ip}</Id><Port>{port}</Port></Target>"
        f"<TargetHealth><State>{health.state}</State>{reason}{description}</TargetHealth></member>"
    )

"""EC2: the two security groups of an endpoint.

The load balancer is open to the internet, or to some addresses; the tasks are open only to the load balancer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources.balancer_properties import LoadBalancerPorts
from mlflow_fargate.resources.properties import TaskPorts

_EVERYONE = ("0.0.0.0/0", "::/0")
_TASK_PORTS = {"FromPort": 1024, "ToPort": 65535}


def find_endpoint_vpc(session: AwsSession, endpoint_tags: Mapping[str, str]) -> str | None:
    """Returns the VPC of an endpoint without a load balancer (yet, or any more), from its security groups."""
    filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in endpoint_tags.items()]
    groups = session.call("ec2", "describe_security_groups", Filters=filters)["SecurityGroups"]
    return str(groups[0]["VpcId"]) if groups else None


class LoadBalancerSecurityGroupType(ResourceType[LoadBalancerPorts]):
    """Open on the listeners' ports: to the internet, or to the addresses that were named."""

    def observe(self, resource: Resource[LoadBalancerPorts], ids: Ids) -> Found[LoadBalancerPorts] | None:
        group = _find_group(self._session, resource.name, ids)
        if group is None:
            return None
        of_ports = {port: _cidrs(group, port) for port in resource.properties.open_ports}
        opened = {port: of_port for port, of_port in of_ports.items() if of_port}
        cidrs = tuple(sorted({cidr for of_port in opened.values() for cidr in of_port}))
        is_even = all(set(cidrs) == of_port for of_port in opened.values())
        as_they_are = None if resource.properties.cidrs is None else cidrs
        shown = as_they_are if is_even else ("not the same on every port",)
        properties = LoadBalancerPorts(tuple(opened), shown, cidrs)
        return Found(group["GroupId"], properties, tags.are_ours(tags.read(group.get("Tags"))))

    def create(self, resource: Resource[LoadBalancerPorts], ids: Ids) -> str:
        group = _create_group(self._session, resource, ids, "mlflow-fargate: internet to load balancer")
        return self._open(group, resource.properties.open_ports, resource.properties.cidrs or _EVERYONE)

    def change(self, resource: Resource[LoadBalancerPorts], found: Found[LoadBalancerPorts], ids: Ids) -> str:
        """Opens what is missing before it closes what is not wanted; other ports stay as they are."""
        wanted, before = resource.properties, found.properties.found_cidrs
        cidrs = wanted.cidrs or before or _EVERYONE
        self._open(found.identifier, wanted.open_ports, cidrs)
        if closed := sorted(set(before) - set(cidrs)):
            for port in wanted.open_ports:
                for cidr in closed:
                    _revoke(self._session, found.identifier, _permission(port, [cidr]))
        return found.identifier

    def delete(self, found: Found[Properties]) -> None:
        self._session.delete("ec2", "delete_security_group", GroupId=found.identifier)

    def _open(self, group: str, ports: Iterable[int], cidrs: Sequence[str]) -> str:
        for port in ports:
            if not _authorize(self._session, group, _permission(port, cidrs)):
                for cidr in cidrs:  # one that exists refuses all
                    _authorize(self._session, group, _permission(port, [cidr]))
        return group


class TaskSecurityGroupType(ResourceType[TaskPorts]):
    """Open to the load balancer only, on any port that a container can listen on."""

    def observe(self, resource: Resource[TaskPorts], ids: Ids) -> Found[TaskPorts] | None:
        group = _find_group(self._session, resource.name, ids)
        if group is None:
            return None
        is_open = any(rule.get("UserIdGroupPairs") for rule in group["IpPermissions"])
        properties = TaskPorts() if is_open else TaskPorts(())
        return Found(group["GroupId"], properties, tags.are_ours(tags.read(group.get("Tags"))))

    def create(self, resource: Resource[TaskPorts], ids: Ids) -> str:
        group = _create_group(self._session, resource, ids, "mlflow-fargate: load balancer to tasks")
        return self._open(group, ids)

    def change(self, resource: Resource[TaskPorts], found: Found[TaskPorts], ids: Ids) -> str:
        return self._open(found.identifier, ids)

    def delete(self, found: Found[Properties]) -> None:
        self._session.delete("ec2", "delete_security_group", GroupId=found.identifier)

    def _open(self, group: str, ids: Ids) -> str:
        source = {"UserIdGroupPairs": [{"GroupId": ids["load balancer security group"]}]}
        _authorize(self._session, group, {"IpProtocol": "tcp", **_TASK_PORTS, **source})
        return group


def _find_group(session: AwsSession, name: str, ids: Ids) -> dict[str, Any] | None:
    # Both of an endpoint's, so that an observation reads them in one call.
    both = [f"{name.rpartition('-')[0]}-{purpose}" for purpose in ("alb", "tasks")]
    filters = [{"Name": "group-name", "Values": both}, {"Name": "vpc-id", "Values": [ids["vpc"]]}]
    groups = session.call("ec2", "describe_security_groups", Filters=filters)["SecurityGroups"]
    return next((group for group in groups if group["GroupName"] == name), None)


def _create_group(session: AwsSession, resource: Resource[Properties], ids: Ids, description: str) -> str:
    specification = [{"ResourceType": "security-group", "Tags": tags.capital(resource.tags)}]
    answer = session.call(
        "ec2",
        "create_security_group",
        GroupName=resource.name,
        Description=description,
        VpcId=ids["vpc"],
        TagSpecifications=specification,
    )
    return str(answer["GroupId"])


def _cidrs(group: Mapping[str, Any], port: int) -> set[str]:
    """The addresses to which a security group opens the port."""
    rules = [rule for rule in group["IpPermissions"] if rule.get("FromPort") == port]
    of_4 = {item["CidrIp"] for rule in rules for item in rule.get("IpRanges", ())}
    return of_4 | {item["CidrIpv6"] for rule in rules for item in rule.get("Ipv6Ranges", ())}


def _permission(port: int, cidrs: Iterable[str]) -> dict[str, Any]:
    ranges: dict[str, list[dict[str, str]]] = {}
    for cidr in cidrs:
        kind, key = ("Ipv6Ranges", "CidrIpv6") if ":" in cidr else ("IpRanges", "CidrIp")
        ranges.setdefault(kind, []).append({key: cidr})
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **ranges}


def _authorize(session: AwsSession, group: str, permission: dict[str, Any]) -> bool:
    """Adds the rule; returns whether it (or a part of it) did not exist."""
    try:
        session.call("ec2", "authorize_security_group_ingress", GroupId=group, IpPermissions=[permission])
    except AwsError as error:
        if error.code != "InvalidPermission.Duplicate":
            raise
        return False
    return True


def _revoke(session: AwsSession, group: str, permission: dict[str, Any]) -> None:
    try:
        session.call("ec2", "revoke_security_group_ingress", GroupId=group, IpPermissions=[permission])
    except AwsError as error:
        if error.code != "InvalidPermission.NotFound":
            raise

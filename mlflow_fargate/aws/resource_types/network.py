"""EC2: which VPC and subnets to use, and the two security groups of an endpoint.

The load balancer is open to the internet; the tasks are open only to the load balancer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlflow_fargate.aws import tags
from mlflow_fargate.aws.resource_types.resource_type import Ids, ResourceType
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError, InvalidOption
from mlflow_fargate.plan import Found, Properties, Resource
from mlflow_fargate.resources import Network
from mlflow_fargate.resources.properties import LoadBalancerPorts, TaskPorts

_TASK_PORTS = {"FromPort": 1024, "ToPort": 65535}


def find_network(session: AwsSession, vpc: str | None, subnets: tuple[str, ...]) -> Network:
    """Returns the given VPC and subnets, or the default VPC and one default subnet in each of its zones."""
    if subnets:
        found = session.call("ec2", "describe_subnets", SubnetIds=list(subnets))["Subnets"]
    else:
        vpc = vpc or _default_vpc(session)
        found = list(session.pages("ec2", "describe_subnets", "Subnets", Filters=[{"Name": "vpc-id", "Values": [vpc]}]))
    vpcs = sorted({subnet["VpcId"] for subnet in found})
    if len(vpcs) > 1 or (vpc and vpcs and vpcs != [vpc]):
        raise InvalidOption(
            f"The subnets {', '.join(subnets)} must all be in {vpc or 'the same VPC'}; they are in {', '.join(vpcs)}.",
            hint="check the options vpc= and subnets=",
        )
    chosen = found if subnets else _one_a_zone(found)
    if len({subnet["AvailabilityZone"] for subnet in chosen}) < 2:
        raise InvalidOption(
            f"A load balancer requires subnets in two availability zones; VPC {vpc or vpcs} has fewer.",
            hint="choose others with subnets=subnet-a,subnet-b",
        )
    return Network(vpc=vpcs[0], subnets=tuple(sorted(subnet["SubnetId"] for subnet in chosen)))


def find_endpoint_vpc(session: AwsSession, endpoint_tags: Mapping[str, str]) -> str | None:
    """Returns the VPC of an endpoint without a load balancer (yet, or any more), from its security groups."""
    filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in endpoint_tags.items()]
    groups = session.call("ec2", "describe_security_groups", Filters=filters)["SecurityGroups"]
    return str(groups[0]["VpcId"]) if groups else None


class LoadBalancerSecurityGroupType(ResourceType[LoadBalancerPorts]):
    """Open to the internet on the listeners' ports."""

    def observe(self, resource: Resource[LoadBalancerPorts], ids: Ids) -> Found[LoadBalancerPorts] | None:
        group = _find_group(self._session, resource.name, ids)
        if group is None:
            return None
        ports = sorted(rule["FromPort"] for rule in group["IpPermissions"] if "FromPort" in rule)
        return Found(group["GroupId"], LoadBalancerPorts(tuple(ports)), tags.are_ours(tags.read(group.get("Tags"))))

    def create(self, resource: Resource[LoadBalancerPorts], ids: Ids) -> str:
        group = _create_group(self._session, resource, ids, "mlflow-fargate: internet to load balancer")
        return self._open(group, resource.properties.open_ports)

    def change(self, resource: Resource[LoadBalancerPorts], found: Found[LoadBalancerPorts], ids: Ids) -> str:
        missing = set(resource.properties.open_ports) - set(found.properties.open_ports)
        return self._open(found.identifier, sorted(missing))

    def delete(self, found: Found[Properties]) -> None:
        self._session.delete("ec2", "delete_security_group", GroupId=found.identifier)

    def _open(self, group: str, ports: Iterable[int]) -> str:
        for port in ports:
            everyone = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}], "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}
            _authorize(self._session, group, {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **everyone})
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


def _default_vpc(session: AwsSession) -> str:
    vpcs = session.call("ec2", "describe_vpcs", Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        raise InvalidOption(
            f"The account has no default VPC in {session.region}.",
            hint="choose a VPC with subnets=subnet-a,subnet-b, or create one: aws ec2 create-default-vpc",
        )
    return str(vpcs[0]["VpcId"])


def _one_a_zone(subnets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prefers default subnets; a load balancer takes one subnet per zone."""
    by_zone: dict[str, dict[str, Any]] = {}
    for subnet in sorted(subnets, key=lambda subnet: (not subnet.get("DefaultForAz"), subnet["SubnetId"])):
        by_zone.setdefault(subnet["AvailabilityZone"], subnet)
    return list(by_zone.values())


def _find_group(session: AwsSession, name: str, ids: Ids) -> dict[str, Any] | None:
    filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [ids["vpc"]]}]
    groups = session.call("ec2", "describe_security_groups", Filters=filters)["SecurityGroups"]
    return groups[0] if groups else None


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


def _authorize(session: AwsSession, group: str, permission: dict[str, Any]) -> None:
    try:
        session.call("ec2", "authorize_security_group_ingress", GroupId=group, IpPermissions=[permission])
    except AwsError as error:
        if error.code != "InvalidPermission.Duplicate":
            raise

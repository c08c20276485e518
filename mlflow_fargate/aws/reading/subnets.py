"""EC2: a VPC's subnets, their routes, and its VPC endpoints; reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.resources.network import NetworkFacts, Subnet, WayOut

_GONE = ("deleting", "deleted", "rejected", "failed", "expired")


def read_network(session: AwsSession, vpc: str | None, named: Sequence[str] = ()) -> NetworkFacts:
    """Returns the facts about the VPC of the `named` subnets, else about `vpc`, else about the default VPC."""
    if named:
        found = session.call("ec2", "describe_subnets", SubnetIds=list(dict.fromkeys(named)))["Subnets"]
        vpcs = sorted({subnet["VpcId"] for subnet in found})
        if len(vpcs) > 1 or (vpc and vpcs != [vpc]):
            raise InvalidOption(
                f"The subnets {', '.join(named)} must all be in {vpc or 'the same VPC'}; they are in "
                f"{', '.join(vpcs)}.",
                hint="check the options vpc=, subnets= and load_balancer_subnets=",
            )
        vpc = str(vpcs[0])
    return read_vpc(session, vpc or _default_vpc(session))


def read_vpc(session: AwsSession, vpc: str) -> NetworkFacts:
    """Returns every subnet of the VPC and its way out, from the route tables."""
    of_vpc = [{"Name": "vpc-id", "Values": [vpc]}]
    described = list(session.pages("ec2", "describe_subnets", "Subnets", Filters=of_vpc))
    tables = list(session.pages("ec2", "describe_route_tables", "RouteTables", Filters=of_vpc))
    pages = session.pages("ec2", "describe_vpc_endpoints", "VpcEndpoints", Filters=of_vpc)
    endpoints = [endpoint for endpoint in pages if endpoint["State"].lower() not in _GONE]
    interfaces = [endpoint for endpoint in endpoints if not _is_gateway(endpoint)]
    services = frozenset(_service(endpoint) for endpoint in interfaces if endpoint.get("PrivateDnsEnabled", True))
    unnamed = frozenset(map(_service, interfaces)) - services
    subnets = (_read_subnet(item, tables, endpoints, session.account) for item in described)
    return NetworkFacts(vpc, tuple(subnets), services, session.region, unnamed)


def way_out(subnet: str, tables: Sequence[Mapping[str, Any]]) -> WayOut:
    """Returns where a subnet's route table leads (its own, or else the VPC's main one): its default route first."""
    routes = [route for route in _table_of(subnet, tables).get("Routes", []) if route.get("State") != "blackhole"]
    default = next((route for route in routes if route.get("DestinationCidrBlock") == "0.0.0.0/0"), None)
    if default is not None:
        if str(default.get("GatewayId", "")).startswith("igw-"):
            return "internet gateway"
        return "NAT" if default.get("NatGatewayId") else "other"
    # A gateway endpoint leads to its service only, such as S3.
    gateways = (str(route.get("GatewayId", "")) for route in routes)
    return "other" if any(not name.startswith(("local", "vpce-", "igw-")) for name in gateways) else "none"


def _read_subnet(
    item: Mapping[str, Any], tables: Sequence[Mapping[str, Any]], endpoints: Sequence[Mapping[str, Any]], account: str
) -> Subnet:
    table = _table_of(item["SubnetId"], tables).get("RouteTableId")
    gateways = (one for one in endpoints if _is_gateway(one) and table in one.get("RouteTableIds", ()))
    return Subnet(
        id=item["SubnetId"],
        zone=item["AvailabilityZone"],
        free_addresses=item["AvailableIpAddressCount"],
        way_out=way_out(item["SubnetId"], tables),
        zone_id=item.get("AvailabilityZoneId", ""),
        is_default=item.get("DefaultForAz", False),
        gateway_services=frozenset(map(_service, gateways)),
        is_shared=item.get("OwnerId", account) != account,
        is_on_outpost=bool(item.get("OutpostArn")),
    )


def _table_of(subnet: str, tables: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    for key, value in (("SubnetId", subnet), ("Main", True)):
        for table in tables:
            if any(item.get(key) == value for item in table.get("Associations", [])):
                return table
    return {}


def _is_gateway(endpoint: Mapping[str, Any]) -> bool:
    return endpoint.get("VpcEndpointType") == "Gateway"


def _service(endpoint: Mapping[str, Any]) -> str:
    """'ecr.api' of 'com.amazonaws.us-east-2.ecr.api', in China of 'cn.com.amazonaws.cn-north-1.ecr.api'."""
    return str(endpoint["ServiceName"]).partition("amazonaws.")[2].partition(".")[2]


def _default_vpc(session: AwsSession) -> str:
    vpcs = session.call("ec2", "describe_vpcs", Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not vpcs:
        raise InvalidOption(
            f"The account has no default VPC in {session.region}.",
            hint="choose a VPC with subnets=subnet-a,subnet-b, or create one: aws ec2 create-default-vpc",
        )
    return str(vpcs[0]["VpcId"])

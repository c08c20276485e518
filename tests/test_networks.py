"""Which subnets are used: decided from the facts about a VPC, for the layouts that companies have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mlflow_fargate.aws.reading.subnets import read_vpc, way_out
from mlflow_fargate.config import NamedOptions, parse_config
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.resources import choose_network
from mlflow_fargate.resources.network import NetworkFacts, Subnet, WayOut
from support.deployer import answer, count_writes, create

REGION = "eu-west-1"
ALL = frozenset({"ecr.api", "ecr.dkr", "s3", "logs", "secretsmanager"})
INTERFACES = ALL - {"s3"}


def subnet(name: str, way: WayOut = "internet gateway", **more: Any) -> Subnet:
    """`a1` is a subnet in zone a."""
    zone = more.pop("zone", f"{REGION}{name[0]}")
    return Subnet(name, zone, more.pop("free_addresses", 200), way, **more)


def vpc(*subnets: Subnet, services: frozenset[str] = frozenset(), region: str = REGION) -> NetworkFacts:
    return NetworkFacts("vpc-1", subnets, services, region)


PUBLIC = (subnet("a1"), subnet("b1"))
NAT = (subnet("a2", "NAT"), subnet("b2", "NAT"))
OTHER = (subnet("a3", "other"), subnet("b3", "other"))
CLOSED = (subnet("a4", "none"), subnet("b4", "none"))
WITH_S3 = tuple(replace(one, gateway_services=frozenset({"s3"})) for one in CLOSED)
SHARED = tuple(replace(one, is_shared=True) for one in CLOSED)
LOCAL_ZONE = subnet("x1", zone="eu-west-1-lax-1a")


@pytest.mark.parametrize(
    ("facts", "options", "balancer", "tasks", "public_ip"),
    [
        pytest.param(vpc(*PUBLIC), {}, "a1 b1", "a1 b1", True, id="the default VPC"),
        pytest.param(vpc(*PUBLIC, *NAT), {}, "a1 b1", "a1 b1", True, id="public and private, nothing named"),
        pytest.param(
            vpc(*PUBLIC, *NAT), {"subnets": "a2,b2"}, "a1 b1", "a2 b2", False, id="public load balancer, private tasks"
        ),
        pytest.param(
            vpc(*PUBLIC, subnet("c1"), *NAT), {"subnets": "a2"}, "a1 b1", "a2", False, id="private tasks in one zone"
        ),
        pytest.param(
            vpc(*PUBLIC, *WITH_S3, services=INTERFACES),
            {"subnets": "a4,b4"},
            "a1 b1",
            "a4 b4",
            False,
            id="private tasks with VPC endpoints",
        ),
        pytest.param(
            vpc(*PUBLIC, *WITH_S3, services=INTERFACES - {"secretsmanager"}),
            {"subnets": "a4,b4", "auth": "none"},
            "a1 b1",
            "a4 b4",
            False,
            id="no endpoint for secrets, and none are used",
        ),
        pytest.param(
            replace(vpc(*PUBLIC, *WITH_S3, services=INTERFACES - {"logs"}), unnamed_services=frozenset({"logs"})),
            {"subnets": "a4,b4"},
            "a1 b1",
            "a4 b4",
            False,
            id="an endpoint without private DNS names",
        ),
        pytest.param(vpc(*NAT), {"scheme": "internal"}, "a2 b2", "a2 b2", False, id="internal, all private"),
        pytest.param(
            vpc(*PUBLIC, *NAT), {"scheme": "internal"}, "a2 b2", "a2 b2", False, id="internal prefers private subnets"
        ),
        pytest.param(vpc(*PUBLIC), {"scheme": "internal"}, "a1 b1", "a1 b1", True, id="internal in public subnets"),
        pytest.param(
            vpc(*NAT, *CLOSED),
            {"scheme": "internal", "load_balancer_subnets": "a4,b4", "subnets": "a2,b2"},
            "a4 b4",
            "a2 b2",
            False,
            id="internal load balancer in isolated subnets",
        ),
        pytest.param(
            vpc(*PUBLIC, *OTHER), {"subnets": "a3,b3"}, "a1 b1", "a3 b3", False, id="tasks behind a transit gateway"
        ),
        pytest.param(vpc(*PUBLIC, *SHARED), {"subnets": "a4,b4"}, "a1 b1", "a4 b4", False, id="a shared VPC"),
        pytest.param(vpc(LOCAL_ZONE, *PUBLIC), {}, "a1 b1", "a1 b1", True, id="a Local Zone is left out"),
        pytest.param(
            vpc(replace(PUBLIC[0], id="a0", is_on_outpost=True), *PUBLIC), {}, "a1 b1", "a1 b1", True, id="an Outpost"
        ),
        pytest.param(
            vpc(
                *(
                    Subnet(f"{letter}1", f"us-west-1{letter}", 200, "internet gateway", zone_id=f"usw1-az{number}")
                    for letter, number in (("a", 1), ("b", 2), ("c", 3))
                ),
                region="us-west-1",
            ),
            {},
            "a1 b1 c1",
            "a1 c1",
            True,
            id="a zone without Fargate",
        ),
        pytest.param(
            vpc(subnet("a0", free_addresses=3), *PUBLIC), {}, "a1 b1", "a1 b1", True, id="a subnet without addresses"
        ),
        pytest.param(
            vpc(*PUBLIC, subnet("a9", is_default=True)), {}, "a9 b1", "a9 b1", True, id="the default subnet of a zone"
        ),
        pytest.param(
            vpc(*PUBLIC, *NAT), {"subnets": "a1,b2"}, "a1 b1", "a1 b2", True, id="tasks in public and private subnets"
        ),
    ],
)
def test_a_layout_has_its_subnets(
    facts: NetworkFacts, options: dict[str, Any], balancer: str, tasks: str, public_ip: bool
) -> None:
    network = choose_network(facts, parse_config(options))

    assert " ".join(network.balancer_subnets) == balancer
    assert " ".join(network.subnets) == tasks
    assert network.assigns_public_ip == public_ip
    assert ("with public IP addresses" in network.notes[0]) == public_ip


@pytest.mark.parametrize(
    ("facts", "options", "said", "hint"),
    [
        pytest.param(vpc(*NAT), {}, "requires public subnets in two", "scheme=internal", id="closed"),
        pytest.param(vpc(PUBLIC[0], subnet("a5")), {}, "in two availability zones", "subnets=", id="one zone"),
        pytest.param(vpc(LOCAL_ZONE, PUBLIC[0]), {}, "two availability zones", "subnets=", id="one and a Local Zone"),
        pytest.param(
            vpc(*PUBLIC, *CLOSED),
            {"subnets": "a4,b4"},
            "no route to ecr.api, ecr.dkr, s3, logs, secretsmanager.",
            "(about USD 58 per month in 2 zones), or a NAT gateway (about USD 33",
            id="isolated tasks",
        ),
        pytest.param(
            vpc(*PUBLIC, CLOSED[0], WITH_S3[1], services=INTERFACES),
            {"subnets": "a4,b4"},
            "Tasks in a4 could not be started: no route to s3.",
            "VPC endpoints for s3 (about USD 0 per month",
            id="one route table lacks the gateway endpoint of S3",
        ),
        pytest.param(
            vpc(*PUBLIC, *WITH_S3, services=INTERFACES),
            {"subnets": "a4,b4", "secrets.A": "arn:aws:ssm:eu-west-1:123456789012:parameter/a"},
            "Tasks in a4, b4 could not be started: no route to ssm.",
            "VPC endpoints for ssm (about USD 15 per month in 2 zones)",
            id="a parameter as a secret",
        ),
        pytest.param(
            vpc(*PUBLIC),
            {"assign_public_ip": False},
            "without a public IP address",
            "set assign_public_ip=true, or add VPC endpoints",
            id="public subnets without public addresses",
        ),
        pytest.param(
            vpc(*PUBLIC, *NAT), {"load_balancer_subnets": "a2,b2"}, "a2, b2: no route to an", "internal", id="NAT"
        ),
        pytest.param(
            vpc(*PUBLIC, subnet("a5")), {"load_balancer_subnets": "a1,a5"}, "one subnet in each", "change", id="twice"
        ),
        pytest.param(
            vpc(*PUBLIC, subnet("c5", "NAT")), {"load_balancer_subnets": "a1,b1", "subnets": "c5"},
            "c5: the load balancer has no subnet in eu-west-1c", "load_balancer_subnets=", id="another zone",
        ),
        pytest.param(
            vpc(PUBLIC[0], subnet("b1", free_addresses=7)), {"load_balancer_subnets": "a1,b1"}, "b1: a load balancer "
            "requires 8 free addresses", "larger", id="too small",
        ),
        pytest.param(
            vpc(*PUBLIC, subnet("a5", "NAT", free_addresses=0)), {"subnets": "a5"}, "no free addresses", "subnets=",
            id="no addresses for tasks",
        ),
        pytest.param(
            vpc(*PUBLIC, subnet("a5", "NAT", zone_id="apne1-az3", zone="ap-northeast-1a"), region="ap-northeast-1"),
            {"subnets": "a5"}, "requires public subnets in two", "subnets=", id="no zone of the region",
        ),
        pytest.param(
            vpc(*(Subnet(f"{one}1", f"us-west-1{one}", 99, "NAT", zone_id=f"usw1-az{number}")
                  for one, number in (("a", 2), ("b", 3))), region="us-west-1"),
            {"subnets": "a1", "scheme": "internal"}, "Fargate does not run in every zone: a1 in us-west-1a", "subnets=",
            id="tasks named in a zone without Fargate",
        ),
    ],
)  # fmt: skip
def test_a_layout_that_cannot_work_is_refused(
    facts: NetworkFacts, options: dict[str, Any], said: str, hint: str
) -> None:
    with pytest.raises(InvalidOption) as caught:
        choose_network(facts, parse_config(options))

    assert said in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("tasks", "services", "is_warned"),
    [(OTHER, frozenset(), True), (SHARED, frozenset(), True), (OTHER, ALL, False), (NAT, frozenset(), False)],
)
def test_what_a_route_table_cannot_prove_is_a_warning(
    tasks: tuple[Subnet, ...], services: frozenset[str], is_warned: bool
) -> None:
    named = ",".join(one.id for one in tasks)
    notes = choose_network(vpc(*PUBLIC, *tasks, services=services), parse_config({"subnets": named})).notes

    assert any("warning:" in note and "cannot be checked from here" in note for note in notes) == is_warned


def test_an_endpoint_without_private_dns_names_is_a_warning() -> None:
    facts = vpc(*PUBLIC, *WITH_S3, services=INTERFACES - {"logs"})
    named = parse_config({"subnets": "a4,b4"})

    with pytest.raises(InvalidOption, match="no route to logs"):
        choose_network(facts, named)
    (_, warning) = choose_network(replace(facts, unnamed_services=frozenset({"logs"})), named).notes
    assert "without private DNS names, which cannot be checked from here" in warning


def test_tasks_go_to_the_zones_of_a_load_balancer_that_exists() -> None:
    network = choose_network(vpc(*PUBLIC, subnet("c1")), parse_config({}), standing=("a1", "b1"))
    assert (network.balancer_subnets, network.subnets) == (("a1", "b1"), ("a1", "b1"))

    with pytest.raises(InvalidOption, match="no subnet in eu-west-1c"):
        choose_network(vpc(*PUBLIC, subnet("c1")), parse_config({"subnets": "c1"}), standing=("a1", "b1"))


@pytest.mark.parametrize("cidr", ["10.0.0.1/8", "everyone", "300.0.0.0/8"])
def test_a_wrong_cidr_block_is_refused(cidr: str) -> None:
    with pytest.raises(InvalidOption, match="is not a CIDR block"):
        parse_config({"allowed_cidrs": cidr})


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ([{"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": "igw-1"}], "internet gateway"),
        ([{"DestinationCidrBlock": "0.0.0.0/0", "NatGatewayId": "nat-1"}], "NAT"),
        ([{"DestinationCidrBlock": "0.0.0.0/0", "NatGatewayId": "nat-1", "State": "blackhole"}], "none"),
        ([{"DestinationCidrBlock": "0.0.0.0/0", "TransitGatewayId": "tgw-1"}], "other"),
        ([{"DestinationCidrBlock": "0.0.0.0/0", "NetworkInterfaceId": "eni-1"}], "other"),
        ([{"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": "vpce-1"}], "other"),  # a firewall's endpoint
        ([{"DestinationCidrBlock": "10.0.0.0/8", "TransitGatewayId": "tgw-1"}], "other"),
        ([{"DestinationCidrBlock": "10.0.0.0/8", "GatewayId": "vgw-1"}], "other"),
        ([{"DestinationPrefixListId": "pl-1", "GatewayId": "vpce-s3"}], "none"),
        ([], "none"),
    ],
)
def test_a_route_table_leads_somewhere(routes: list[dict[str, Any]], expected: str) -> None:
    local = {"DestinationCidrBlock": "10.0.0.0/16", "GatewayId": "local", "State": "active"}
    own = {"Associations": [{"SubnetId": "subnet-1"}], "Routes": [local, *routes]}
    main = {"Associations": [{"Main": True}], "Routes": [{"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": "igw-9"}]}

    assert way_out("subnet-1", [main, own]) == expected
    assert way_out("subnet-2", [main, own]) == "internet gateway"


# On the local stack's AWS


@dataclass
class Company:
    """A VPC with two public subnets, two behind a NAT gateway, and two that lead nowhere."""

    deployer: Deployer
    vpc: str
    public: str
    private: str
    closed: str
    closed_table: str

    def balancer(self, endpoint: str) -> dict[str, Any]:
        name = f"mlflow-fargate-{endpoint}"
        found: dict[str, Any] = self.call("elbv2", "describe_load_balancers", Names=[name])["LoadBalancers"][0]
        return found

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        return self.deployer.account.session.call(service, operation, **parameters)


@pytest.fixture
def company(deployer: Deployer) -> Iterator[Company]:
    deployer = replace(deployer, target=replace(deployer.target, endpoint="team"))
    call = deployer.account.session.call
    vpc_id = call("ec2", "create_vpc", CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    internet = call("ec2", "create_internet_gateway")["InternetGateway"]["InternetGatewayId"]
    call("ec2", "attach_internet_gateway", InternetGatewayId=internet, VpcId=vpc_id)

    def tier(number: int) -> tuple[list[str], str]:
        table = call("ec2", "create_route_table", VpcId=vpc_id)["RouteTable"]["RouteTableId"]
        names = []
        for place, zone in enumerate("ab"):
            block, where = f"10.0.{number * 10 + place}.0/24", f"us-east-1{zone}"
            made = call("ec2", "create_subnet", VpcId=vpc_id, CidrBlock=block, AvailabilityZone=where)
            names.append(made["Subnet"]["SubnetId"])
            call("ec2", "associate_route_table", RouteTableId=table, SubnetId=names[-1])
        return sorted(names), table

    def lead(table: str, **somewhere: str) -> None:
        call("ec2", "create_route", RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", **somewhere)

    (public, public_table), (private, private_table), (closed, closed_table) = tier(1), tier(2), tier(3)
    lead(public_table, GatewayId=internet)
    lead(
        private_table, NatGatewayId=call("ec2", "create_nat_gateway", SubnetId=public[0])["NatGateway"]["NatGatewayId"]
    )
    made = Company(deployer, vpc_id, ",".join(public), ",".join(private), ",".join(closed), closed_table)
    try:
        yield made
    finally:
        for status in list(deployer.list()):
            deployer.delete(status.name)
        deployer.delete_endpoint("team")


@pytest.mark.slow
def test_a_public_load_balancer_has_private_tasks_for_a_whole_life(company: Company) -> None:
    create(company.deployer, subnets=company.private)

    status = company.deployer.get("churn")
    assert answer(status.url)["environment"]["PATH_PREFIX"] == "/churn"
    assert (",".join(sorted(status.subnets)), status.assigns_public_ip) == (company.private, False)
    balancer = company.balancer("team")
    assert ",".join(sorted(zone["SubnetId"] for zone in balancer["AvailabilityZones"])) == company.public
    assert balancer["Scheme"] == "internet-facing"
    progress = company.deployer.progress
    assert isinstance(progress, RecordedProgress)
    assert "(private, NAT), without public IP addresses" in "\n".join(progress.lines)
    # An update that names no subnets leaves the tasks where they are, whatever else its options are.
    assert not count_writes(company.deployer, lambda it: it.update("churn", None, None, NamedOptions()))
    company.deployer.update("churn", "models:/churn/2", None, NamedOptions())
    assert ",".join(sorted(company.deployer.get("churn").subnets)) == company.private
    # A second deployment in other subnets does not move the load balancer.
    create(company.deployer, "fraud", subnets=company.public)
    assert company.deployer.get("fraud").assigns_public_ip
    assert company.balancer("team")["AvailabilityZones"] == balancer["AvailabilityZones"]
    company.deployer.delete("churn")
    assert company.deployer.endpoint.status("churn") is None


@pytest.mark.slow
def test_an_internal_load_balancer_is_open_to_the_addresses_that_were_named(company: Company) -> None:
    def opened() -> list[str]:
        name = [{"Name": "group-name", "Values": ["mlflow-fargate-team-alb"]}]
        (group,) = company.call("ec2", "describe_security_groups", Filters=name)["SecurityGroups"]
        (rule,) = group["IpPermissions"]
        return sorted([it["CidrIp"] for it in rule["IpRanges"]] + [it["CidrIpv6"] for it in rule["Ipv6Ranges"]])

    create(company.deployer, scheme="internal", subnets=company.private, allowed_cidrs="10.0.0.0/8,192.168.0.0/16")

    assert company.balancer("team")["Scheme"] == "internal"
    assert opened() == ["10.0.0.0/8", "192.168.0.0/16"]
    config = parse_config({"allowed_cidrs": "10.0.0.0/8,fd00::/8"})
    company.deployer.create_endpoint("team", config)
    assert opened() == ["10.0.0.0/8", "fd00::/8"]
    # The deployment was created with other addresses; its next update does not bring these back.
    assert not count_writes(company.deployer, lambda it: it.update("churn", None, None, NamedOptions()))
    with pytest.raises(InvalidOption, match="is internal; AWS cannot change that"):
        company.deployer.update("churn", None, None, NamedOptions({"scheme": "internet-facing"}))


@pytest.mark.slow
def test_tasks_that_could_not_start_are_refused_before_the_first_write(company: Company) -> None:
    def refused(counted: Deployer) -> None:
        with pytest.raises(InvalidOption, match="could not be started") as caught:
            create(counted, subnets=company.closed)
        assert "VPC endpoints for ecr.api, ecr.dkr, s3, logs (about USD 44 per month" in (caught.value.hint or "")

    assert not count_writes(company.deployer, refused)


@pytest.mark.slow
def test_the_facts_about_a_vpc_are_read_from_its_route_tables_and_endpoints(company: Company) -> None:
    def endpoint(service: str, **more: Any) -> None:
        name = f"com.amazonaws.us-east-1.{service}"
        company.call("ec2", "create_vpc_endpoint", VpcId=company.vpc, ServiceName=name, **more)

    endpoint("ecr.api", VpcEndpointType="Interface", PrivateDnsEnabled=True)
    endpoint("logs", VpcEndpointType="Interface", PrivateDnsEnabled=False)
    endpoint("s3", VpcEndpointType="Gateway", RouteTableIds=[company.closed_table])

    facts = read_vpc(company.deployer.account.session, company.vpc)

    by_tier = {
        tier: {(it.way_out, it.gateway_services) for it in facts.subnets if it.id in tier}
        for tier in (company.public, company.private, company.closed)
    }
    assert by_tier == {
        company.public: {("internet gateway", frozenset())},
        company.private: {("NAT", frozenset())},
        company.closed: {("none", frozenset({"s3"}))},
    }
    assert facts.endpoint_services == {"ecr.api"}
    assert facts.unnamed_services == {"logs"}
    assert not any(it.is_shared for it in facts.subnets)

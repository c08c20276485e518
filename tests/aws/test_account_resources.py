"""Endpoint and deployment resources on the local stack's AWS: what was written is what is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_fargate.aws.account import Account
from mlflow_fargate.config import parse_config
from mlflow_fargate.errors import ForeignResource
from mlflow_fargate.plan import Plan, make_deletion, make_plan
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.resources import EndpointSpec, endpoint_resources
from mlflow_fargate.target import Target, TargetEnvironment
from support.local_aws import running_aws

pytestmark = pytest.mark.slow


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with running_aws(tmp_path) as aws:
        surroundings = TargetEnvironment(aws.url, "local", "local")
        yield Account(Target("fargate:/us-east-1", region="us-east-1", environment=surroundings))


@pytest.fixture
def endpoint(account: Account) -> EndpointSpec:
    return account.endpoint("team").spec(parse_config(None))


def plan_for(account: Account, endpoint: EndpointSpec) -> Plan:
    wanted = endpoint_resources(endpoint)
    return make_plan(wanted, account.observe(wanted, endpoint.network))


def test_an_endpoint_that_was_made_is_seen_as_wanted(account: Account, endpoint: EndpointSpec) -> None:
    account.apply(plan_for(account, endpoint), endpoint.network, RecordedProgress())

    again = plan_for(account, endpoint)

    assert again.is_empty, str(again)
    assert len(again.changes) == 6


def test_an_endpoint_that_was_half_made_is_finished(account: Account, endpoint: EndpointSpec) -> None:
    whole = plan_for(account, endpoint)
    account.apply(Plan(whole.changes[:3]), endpoint.network, RecordedProgress())

    rest = plan_for(account, endpoint)
    account.apply(rest, endpoint.network, RecordedProgress())

    assert [change.action for change in rest.changes] == ["keep"] * 3 + ["create"] * 3
    assert plan_for(account, endpoint).is_empty


def test_a_deleted_endpoint_leaves_nothing(account: Account, endpoint: EndpointSpec) -> None:
    account.apply(plan_for(account, endpoint), endpoint.network, RecordedProgress())
    found = account.find_endpoint(endpoint_resources(endpoint), endpoint.network)

    account.apply(make_deletion(found), endpoint.network, RecordedProgress())

    assert all(change.action == "create" for change in plan_for(account, endpoint).changes)


def test_what_is_left_of_an_endpoint_in_another_vpc_is_found_without_its_load_balancer(account: Account) -> None:
    call = account.session.call
    vpc = call("ec2", "create_vpc", CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        call("ec2", "create_subnet", VpcId=vpc, CidrBlock=f"10.9.{zone}.0/24", AvailabilityZone=f"us-east-1{letter}")
        for zone, letter in enumerate("ab")
    ]
    internet = call("ec2", "create_internet_gateway")["InternetGateway"]["InternetGatewayId"]
    call("ec2", "attach_internet_gateway", InternetGatewayId=internet, VpcId=vpc)
    main = call("ec2", "describe_route_tables", Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"][0]
    to_all = {"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": internet}
    call("ec2", "create_route", RouteTableId=main["RouteTableId"], **to_all)
    config = parse_config({"subnets": [subnet["Subnet"]["SubnetId"] for subnet in subnets]})
    endpoint = account.endpoint("team").spec(config)
    before_the_balancer = Plan(plan_for(account, endpoint).changes[:4])
    account.apply(before_the_balancer, endpoint.network, RecordedProgress())

    seen = account.endpoint("team").standing_spec()
    found = account.find_endpoint(endpoint_resources(seen), seen.network)
    account.apply(make_deletion(found), seen.network, RecordedProgress())

    assert [kind for kind, _, _ in found] == [change.resource_type for change in before_the_balancer.changes]
    assert account.find_endpoint(endpoint_resources(endpoint), endpoint.network) == []


def test_a_cluster_of_the_same_name_that_is_not_ours_is_refused_before_any_write(
    account: Account, endpoint: EndpointSpec
) -> None:
    account.session.call("ecs", "create_cluster", clusterName=endpoint.full_name)

    with pytest.raises(ForeignResource, match="cluster 'mlflow-fargate-team'"):
        account.apply(plan_for(account, endpoint), endpoint.network, RecordedProgress())

    roles = account.session.call("iam", "list_roles")["Roles"]
    assert not [role for role in roles if role["RoleName"].startswith("mlflow-fargate")]


def test_the_repository_is_made_once_and_keeps_its_tags_immutable(account: Account) -> None:
    first = account.endpoint("team").repository.ensure()
    second = account.endpoint("team").repository.ensure()

    described = account.endpoint("team").repository.observe()

    assert first == second
    assert first.endswith("/mlflow-fargate/team")
    assert described is not None
    assert described["imageTagMutability"] == "IMMUTABLE"


def test_an_older_repository_gets_the_rule_for_locks_and_a_users_policy_is_kept(account: Account) -> None:
    def put(policy: dict[str, Any]) -> None:
        text = json.dumps(policy)
        account.session.call(
            "ecr", "put_lifecycle_policy", repositoryName="mlflow-fargate/team", lifecyclePolicyText=text
        )

    def rules() -> list[dict[str, Any]]:
        answer = account.session.call("ecr", "get_lifecycle_policy", repositoryName="mlflow-fargate/team")
        return list(json.loads(answer["lifecyclePolicyText"])["rules"])

    account.endpoint("team").repository.ensure()
    now = rules()
    put({"rules": now[:1]})
    account.endpoint("team").repository.ensure()
    mended = rules()
    put({"rules": [{**now[0], "description": "mine"}]})
    account.endpoint("team").repository.ensure()

    assert [rule["selection"].get("tagPrefixList") for rule in now] == [None, ["_lock-"]]
    assert mended == now
    assert [rule["description"] for rule in rules()] == ["mine"]


def test_with_a_certificate_an_endpoint_answers_on_https_and_sends_plain_http_there(account: Account) -> None:
    certificate = account.session.call("acm", "request_certificate", DomainName="example.com")["CertificateArn"]
    endpoint = account.endpoint("team").spec(parse_config({"certificate_arn": certificate}))

    account.apply(plan_for(account, endpoint), endpoint.network, RecordedProgress())

    balancer = account.session.call("elbv2", "describe_load_balancers", Names=[endpoint.full_name])["LoadBalancers"][0]
    listeners = account.session.call("elbv2", "describe_listeners", LoadBalancerArn=balancer["LoadBalancerArn"])
    by_port = {listener["Port"]: listener for listener in listeners["Listeners"]}
    assert by_port[443]["Certificates"] == [{"CertificateArn": certificate}]
    assert by_port[443]["SslPolicy"].startswith("ELBSecurityPolicy-TLS13")
    assert by_port[80]["DefaultActions"][0]["RedirectConfig"]["Protocol"] == "HTTPS"
    # The next deployment need not name it again.
    assert plan_for(account, account.endpoint("team").spec(parse_config(None))).is_empty
    assert next(account.endpoints())["url"].startswith("https://")


def test_roles_are_made_below_the_path_and_boundary_that_were_named(account: Account) -> None:
    boundary = "arn:aws:iam::aws:policy/PowerUserAccess"
    options = {"role_path": "/ml/", "permissions_boundary": boundary}
    endpoint = account.endpoint("team").spec(parse_config(options))

    account.apply(plan_for(account, endpoint), endpoint.network, RecordedProgress())

    role = account.session.call("iam", "get_role", RoleName=f"{endpoint.full_name}-us-east-1")["Role"]
    assert role["Path"] == "/ml/"
    assert role["PermissionsBoundary"]["PermissionsBoundaryArn"] == boundary

"""Deployments behind an existing load balancer, which is used but never changed or deleted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mlflow_fargate.config import NamedOptions, parse_config
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import InvalidOption
from support.deployer import answer, count_writes, create


@dataclass
class Shared:
    """A platform team's load balancer, and a deployer on an endpoint that has none of its own."""

    deployer: Deployer
    security_group: str
    load_balancer: str
    listener: str

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return self.deployer.account.session.call("elbv2", operation, **parameters)

    def rules(self) -> list[dict[str, Any]]:
        rules = self.call("describe_rules", ListenerArn=self.listener)["Rules"]
        return [rule for rule in rules if not rule["IsDefault"]]


@pytest.fixture
def shared(deployer: Deployer) -> Iterator[Shared]:
    deployer = replace(deployer, target=replace(deployer.target, endpoint="shop"))
    call = deployer.account.session.call
    vpc = call("ec2", "describe_vpcs")["Vpcs"][0]["VpcId"]
    group = call("ec2", "create_security_group", GroupName="shared", Description="theirs", VpcId=vpc)["GroupId"]
    subnets = [subnet["SubnetId"] for subnet in call("ec2", "describe_subnets")["Subnets"]][:2]
    request = {"Name": "shared", "Subnets": subnets, "SecurityGroups": [group], "Type": "application"}
    balancer = call("elbv2", "create_load_balancer", **request)["LoadBalancers"][0]["LoadBalancerArn"]
    nothing = {"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "404"}}
    listener = call(
        "elbv2", "create_listener", LoadBalancerArn=balancer, Protocol="HTTP", Port=80, DefaultActions=[nothing]
    )["Listeners"][0]["ListenerArn"]
    try:
        yield Shared(deployer, group, balancer, listener)
    finally:
        for status in list(deployer.list()):
            deployer.delete(status.name)
        deployer.delete_endpoint("shop")
        call("elbv2", "delete_load_balancer", LoadBalancerArn=balancer)
        call("ec2", "delete_security_group", GroupId=group)


@pytest.mark.slow
def test_a_listener_without_https_is_refused_if_https_is_required(shared: Shared) -> None:
    with pytest.raises(InvalidOption, match="does not use HTTPS") as caught:
        create(shared.deployer, listener_arn=shared.listener, security_groups=shared.security_group, require_https=True)

    assert caught.value.hint == "name an HTTPS listener"
    assert shared.rules() == []


@pytest.mark.slow
def test_a_listener_gets_a_rule_and_keeps_everything_else(shared: Shared) -> None:
    create(shared.deployer, listener_arn=shared.listener, security_groups=shared.security_group, auth="none")

    status = shared.deployer.get("churn")
    assert answer(status.url)["environment"]["PATH_PREFIX"] == "/churn"
    assert [rule["Conditions"][0]["PathPatternConfig"]["Values"] for rule in shared.rules()] == [["/churn", "/churn/*"]]
    balancers = shared.call("describe_load_balancers")["LoadBalancers"]
    assert "mlflow-fargate-shop" not in [balancer["LoadBalancerName"] for balancer in balancers]
    again = count_writes(
        shared.deployer, lambda it: it.update("churn", "models:/churn/Production", None, NamedOptions())
    )
    assert again == Counter()

    shared.deployer.delete("churn")

    assert shared.rules() == []
    assert shared.call("describe_load_balancers", LoadBalancerArns=[shared.load_balancer])["LoadBalancers"]


@pytest.mark.exhaustive
def test_a_bare_target_group_is_used_as_it_is(shared: Shared) -> None:
    vpc = shared.call("describe_load_balancers", LoadBalancerArns=[shared.load_balancer])["LoadBalancers"][0]["VpcId"]
    request = {"Protocol": "HTTP", "Port": 5000, "VpcId": vpc, "TargetType": "ip", "HealthCheckPath": "/readyz"}
    group = shared.call("create_target_group", Name="theirs", **request)["TargetGroups"][0]["TargetGroupArn"]
    at_once = [{"Key": "deregistration_delay.timeout_seconds", "Value": "0"}]
    shared.call("modify_target_group_attributes", TargetGroupArn=group, Attributes=at_once)
    forward = {"Type": "forward", "TargetGroupArn": group}
    everything = [{"Field": "path-pattern", "Values": ["*"]}]
    rule = shared.call("create_rule", ListenerArn=shared.listener, Priority=1, Conditions=everything, Actions=[forward])

    options = {"target_group_arn": group, "security_groups": shared.security_group, "wait": False}
    create(shared.deployer, port=5000, **options)

    assert shared.deployer.get("churn").url.count("/") == 2
    shared.deployer.delete("churn")
    assert shared.call("describe_target_groups", TargetGroupArns=[group])["TargetGroups"]
    assert len(shared.rules()) == 1
    shared.call("delete_rule", RuleArn=rule["Rules"][0]["RuleArn"])
    shared.call("delete_target_group", TargetGroupArn=group)


@pytest.mark.exhaustive
def test_a_rule_behind_a_service_that_is_gone_is_found_and_deleted(shared: Shared) -> None:
    create(shared.deployer, load_balancer_arn=shared.load_balancer, security_groups=shared.security_group, wait=False)
    session = shared.deployer.account.session
    session.call("ecs", "delete_service", cluster="mlflow-fargate-shop", service="churn", force=True)

    shared.deployer.delete("churn")

    assert shared.rules() == []


@pytest.mark.exhaustive
def test_an_update_moves_no_deployment_to_another_load_balancer(shared: Shared) -> None:
    create(shared.deployer, listener_arn=shared.listener, security_groups=shared.security_group, wait=False)

    with pytest.raises(InvalidOption, match="cannot move 'churn' to another load balancer"):
        shared.deployer.update("churn", None, None, NamedOptions({"listener_arn": ""}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"listener_arn": "arn:l"}, "allow the load balancer to reach the tasks"),
        ({"listener_arn": "arn:l", "target_group_arn": "arn:t", "security_groups": "sg-1"}, "use only one of"),
        (
            {"listener_arn": "arn:l", "certificate_arn": "arn:c", "security_groups": "sg-1"},
            "certificate_arn only applies to",
        ),
        (
            {"target_group_arn": "arn:t", "host": "example.com", "security_groups": "sg-1"},
            "cannot be used with target_group_arn",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        parse_config(options)

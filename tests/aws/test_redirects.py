"""Rules move from the listener on 80 to the one on 443, one by one, in moto's ELBv2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from moto import mock_aws

from mlflow_fargate.aws.resource_types.listener_rules import RedirectListenerType
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import EndpointInUse, ForeignResource
from mlflow_fargate.plan import Found, Resource
from mlflow_fargate.resources.balancer_properties import RedirectProperties
from mlflow_fargate.target import Target

TAGS = {"managed-by": "mlflow-fargate", "mlflow-fargate:endpoint": "team"}
REDIRECT = Resource("redirect listener", "mlflow-fargate-team:80", RedirectProperties(), TAGS)
FROM_ONE_NETWORK = {"Field": "source-ip", "SourceIpConfig": {"Values": ["192.0.2.0/24"]}}


class Balancer:
    """A load balancer with listeners on 80 and 443."""

    def __init__(self) -> None:
        self.session = AwsSession(Target("fargate:/us-east-1", "us-east-1"))
        self.elb, ec2 = self.session.client("elbv2"), self.session.client("ec2")
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        subnets = [item["SubnetId"] for item in ec2.describe_subnets()["Subnets"]][:2]
        made = self.elb.create_load_balancer(Name="mlflow-fargate-team", Subnets=subnets, Type="application")
        self.arn = made["LoadBalancers"][0]["LoadBalancerArn"]
        self.groups = [self.make_group(name, vpc) for name in ("blue", "green")]
        self.listeners = {port: self.listen(port) for port in (80, 443)}
        self.ids = {"load balancer": self.arn, "listener": self.listeners[443]}
        self.kind = RedirectListenerType(self.session)

    def make_group(self, name: str, vpc: str) -> str:
        made = self.elb.create_target_group(Name=name, Protocol="HTTP", Port=80, VpcId=vpc, TargetType="ip")
        return str(made["TargetGroups"][0]["TargetGroupArn"])

    def listen(self, port: int) -> str:
        made = self.elb.create_listener(
            LoadBalancerArn=self.arn, Port=port, Protocol="HTTP", DefaultActions=[answer("404")]
        )
        return str(made["Listeners"][0]["ListenerArn"])

    def add(self, port: int, priority: int, actions: list[dict[str, Any]], *further: Any, **tags: str) -> str:
        paths = {"Field": "path-pattern", "PathPatternConfig": {"Values": ["/churn", "/churn/*"]}}
        made = self.elb.create_rule(
            ListenerArn=self.listeners[port],
            Priority=priority,
            Conditions=[paths, *further],
            Actions=actions,
            Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
        )
        return str(made["Rules"][0]["RuleArn"])

    def add_ours(self, port: int, weights: tuple[int, int], priority: int = 100) -> str:
        return self.add(port, priority, [self.forward(weights)], **TAGS)

    def forward(self, weights: tuple[int, int]) -> dict[str, Any]:
        groups = [{"TargetGroupArn": arn, "Weight": one} for arn, one in zip(self.groups, weights, strict=True)]
        return {"Type": "forward", "ForwardConfig": {"TargetGroups": groups}}

    def rules(self, port: int) -> list[dict[str, Any]]:
        found = self.elb.describe_rules(ListenerArn=self.listeners[port])["Rules"]
        return [rule for rule in found if not rule["IsDefault"]]

    def weights(self, port: int) -> list[list[int]]:
        """Of each rule that forwards."""
        actions = [rule["Actions"][0] for rule in self.rules(port) if rule["Actions"][0]["Type"] == "forward"]
        return [[group["Weight"] for group in action["ForwardConfig"]["TargetGroups"]] for action in actions]

    def redirect(self) -> Found[RedirectProperties]:
        """Does what one command does with the listener; returns what the next one finds."""
        found = self.kind.observe(REDIRECT, self.ids)
        assert found
        if found.properties != RedirectProperties():
            self.kind.change(REDIRECT, found, self.ids)
        found = self.kind.observe(REDIRECT, self.ids)
        assert found
        return found


def answer(status: str) -> dict[str, Any]:
    return {"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": status, "ContentType": "text/plain"}}


@pytest.fixture
def balancer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Balancer]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield Balancer()


def test_a_users_rule_for_fewer_requests_does_not_replace_a_deployments(balancer: Balancer) -> None:
    balancer.add_ours(80, (100, 0))
    balancer.add(443, 5, [answer("403")], FROM_ONE_NETWORK, team="security")

    assert balancer.redirect().properties == RedirectProperties()
    assert (balancer.rules(80), balancer.weights(443)) == ([], [[100, 0]])


def test_a_users_rule_for_the_same_requests_is_an_error_and_nothing_is_deleted(balancer: Balancer) -> None:
    balancer.add_ours(80, (100, 0))
    balancer.add(443, 5, [answer("403")], team="security")

    with pytest.raises(ForeignResource, match="has a rule for /churn"):
        balancer.redirect()
    assert balancer.weights(80) == [[100, 0]]


def test_a_copy_that_an_interrupted_command_made_gets_the_weights_of_now(balancer: Balancer) -> None:
    balancer.add_ours(80, (0, 100))
    balancer.add_ours(443, (100, 0))

    balancer.redirect()

    assert (balancer.rules(80), balancer.weights(443)) == ([], [[0, 100]])


def test_no_rule_moves_while_its_traffic_is_shifted(balancer: Balancer) -> None:
    balancer.add_ours(80, (90, 10))

    with pytest.raises(EndpointInUse, match="ECS is shifting its traffic"):
        balancer.redirect()
    listener = balancer.elb.describe_listeners(ListenerArns=[balancer.listeners[80]])["Listeners"][0]
    assert listener["DefaultActions"][0]["Type"] == "fixed-response"


def test_rules_that_came_back_to_port_80_move_again(balancer: Balancer) -> None:
    balancer.redirect()
    balancer.add_ours(80, (100, 0))

    found = balancer.kind.observe(REDIRECT, balancer.ids)

    assert found
    assert found.properties.port_80 == "redirects to HTTPS, but not every deployment"
    assert balancer.redirect().properties == RedirectProperties()
    assert balancer.weights(443) == [[100, 0]]


def test_a_users_own_redirect_to_https_is_kept(balancer: Balancer) -> None:
    own = {"Protocol": "HTTPS", "Host": "www.example.com", "Port": "443", "StatusCode": "HTTP_302"}
    balancer.elb.modify_listener(
        ListenerArn=balancer.listeners[80], DefaultActions=[{"Type": "redirect", "RedirectConfig": own}]
    )

    found = balancer.kind.observe(REDIRECT, balancer.ids)

    assert found
    assert found.properties == RedirectProperties()

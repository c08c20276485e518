"""Services that shift traffic, as boto3 sees them on the local stack, with real tasks, rules and requests."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
import requests
from botocore.exceptions import ClientError

pytestmark = pytest.mark.slow

TEST = {"X-Test": "secret"}
PAUSE = {
    "targetType": "PAUSE",
    "lifecycleStages": ["POST_TEST_TRAFFIC_SHIFT"],
    "timeoutConfiguration": {"timeoutInMinutes": 200, "action": "ROLLBACK"},
}
BREAKER = {"enable": True, "rollback": True, "thresholdConfiguration": {"type": "COUNT", "value": 2}}
BLUE_GREEN = {"strategy": "BLUE_GREEN", "bakeTimeInMinutes": 0, "deploymentCircuitBreaker": BREAKER}


class Shop:
    """What a service needs: cluster, two target groups, production and test rule, infrastructure role."""

    def __init__(self, url: str, image: str, number: int) -> None:
        self.image, self.name = image, f"shop{number}"
        clients = {
            name: boto3.client(
                name,
                region_name="us-east-1",
                endpoint_url=url,
                aws_access_key_id="local",
                aws_secret_access_key="local",
            )
            for name in ("ecs", "elbv2", "ec2", "iam")
        }
        self.ecs, self.elb, ec2, iam = (clients[name] for name in ("ecs", "elbv2", "ec2", "iam"))
        self.subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"][:2]]
        self.vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        self.ecs.create_cluster(clusterName=self.name)
        balancer = self.elb.create_load_balancer(Name=self.name, Subnets=self.subnets)["LoadBalancers"][0]
        self.url = f"http://{balancer['DNSName']}/{self.name}"
        self.listener = self.elb.create_listener(
            LoadBalancerArn=balancer["LoadBalancerArn"],
            Port=80,
            Protocol="HTTP",
            DefaultActions=[{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "404"}}],
        )["Listeners"][0]["ListenerArn"]
        self.groups = [self._make_group(letter) for letter in "ab"]
        header = {"Field": "http-header", "HttpHeaderConfig": {"HttpHeaderName": "X-Test", "Values": ["secret"]}}
        self.test_rule = self._make_rule(1, header)
        self.production_rule = self._make_rule(2)
        trust = {"Statement": [{"Principal": {"Service": "ecs.amazonaws.com"}, "Action": "sts:AssumeRole"}]}
        trust["Statement"][0]["Effect"] = "Allow"  # type: ignore[assignment]
        self.role = iam.create_role(RoleName=self.name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]

    def _make_group(self, letter: str) -> str:
        arn: str = self.elb.create_target_group(
            Name=f"{self.name}-{letter}",
            Protocol="HTTP",
            Port=3000,
            VpcId=self.vpc,
            TargetType="ip",
            HealthCheckPath="/readyz",
            HealthCheckIntervalSeconds=5,
            UnhealthyThresholdCount=2,
        )["TargetGroups"][0]["TargetGroupArn"]
        delay = [{"Key": "deregistration_delay.timeout_seconds", "Value": "0"}]
        self.elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=delay)
        return arn

    def _make_rule(self, priority: int, *conditions: Any) -> str:
        path = {"Field": "path-pattern", "PathPatternConfig": {"Values": [f"/{self.name}/*"]}}
        weights = [{"TargetGroupArn": arn, "Weight": weight} for arn, weight in zip(self.groups, (100, 0), strict=True)]
        rule = self.elb.create_rule(
            ListenerArn=self.listener,
            Priority=priority,
            Conditions=[path, *conditions],
            Actions=[{"Type": "forward", "ForwardConfig": {"TargetGroups": weights}}],
        )
        arn: str = rule["Rules"][0]["RuleArn"]
        return arn

    def register(self, version: str, mode: str = "") -> str:
        container = {
            "name": "model",
            "image": self.image,
            "portMappings": [{"containerPort": 3000}],
            "environment": [{"name": "VERSION", "value": version}, {"name": "MODE", "value": mode}],
        }
        arn: str = self.ecs.register_task_definition(
            family=self.name, networkMode="awsvpc", cpu="256", memory="512", containerDefinitions=[container]
        )["taskDefinition"]["taskDefinitionArn"]
        return arn

    def create(self, task_definition: str, configuration: Any, desired: int = 1, **advanced: Any) -> None:
        self.ecs.create_service(
            cluster=self.name,
            serviceName=self.name,
            taskDefinition=task_definition,
            desiredCount=desired,
            deploymentConfiguration=configuration,
            loadBalancers=[self.balancer(**advanced)],
            networkConfiguration={"awsvpcConfiguration": {"subnets": self.subnets}},
        )

    def balancer(self, **advanced: Any) -> dict[str, Any]:
        return {
            "targetGroupArn": self.groups[0],
            "containerName": "model",
            "containerPort": 3000,
            "advancedConfiguration": {
                "alternateTargetGroupArn": self.groups[1],
                "productionListenerRule": self.production_rule,
                "testListenerRule": self.test_rule,
                "roleArn": self.role,
                **advanced,
            },
        }

    def update(self, **changes: Any) -> None:
        self.ecs.update_service(cluster=self.name, service=self.name, **changes)

    def deployment(self) -> dict[str, Any]:
        brief = self.ecs.list_service_deployments(cluster=self.name, service=self.name)["serviceDeployments"]
        arns = [brief[0]["serviceDeploymentArn"]]
        found: dict[str, Any] = self.ecs.describe_service_deployments(serviceDeploymentArns=arns)["serviceDeployments"][
            0
        ]
        return found

    def wait_for(self, happened: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        until = time.monotonic() + 60
        while not happened(found := self.deployment()):
            assert time.monotonic() < until, found
            time.sleep(0.1)
        return found

    def wait_for_hook(self) -> str:
        found = self.wait_for(lambda shown: waiting(shown) is not None)
        return str(waiting(found))

    def wait_until(self, status: str) -> dict[str, Any]:
        return self.wait_for(lambda shown: shown["status"] == status)

    def act(self, hook: str, action: str) -> None:
        arn = self.deployment()["serviceDeploymentArn"]
        self.ecs.continue_service_deployment(serviceDeploymentArn=arn, hookId=hook, action=action)

    def ask(self, headers: Any = None) -> tuple[int, str | None]:
        answer = requests.get(f"{self.url}/version", headers=headers, timeout=10)
        return answer.status_code, answer.json().get("version") if answer.ok else None


def waiting(deployment: dict[str, Any]) -> str | None:
    hooks = deployment.get("lifecycleHookDetails", ())
    return next((hook["hookId"] for hook in hooks if hook["status"] == "AWAITING_ACTION"), None)


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return itertools.count(1)


@pytest.fixture
def shop(aws_url: str, push_image: Callable[..., str], numbers: Iterator[int]) -> Iterator[Shop]:
    shop = Shop(aws_url, push_image(), next(numbers))
    yield shop
    if shop.ecs.list_services(cluster=shop.name)["serviceArns"]:
        shop.ecs.delete_service(cluster=shop.name, service=shop.name, force=True)


def test_production_traffic_stays_on_blue_until_the_pause_is_over_and_test_traffic_goes_to_green(shop: Shop) -> None:
    shop.create(shop.register("1"), BLUE_GREEN)
    shop.wait_until("SUCCESSFUL")
    shop.update(taskDefinition=shop.register("2"), deploymentConfiguration={"lifecycleHooks": [PAUSE]})
    hook = shop.wait_for_hook()

    shown = shop.deployment()
    assert (shop.ask(), shop.ask(TEST), shop.ask({"X-Test": "guess"})) == ((200, "1"), (200, "2"), (200, "1"))
    assert shown["lifecycleStage"] == "POST_TEST_TRAFFIC_SHIFT"
    assert shown["targetServiceRevision"]["requestedProductionTrafficWeight"] == 0.0
    assert shown["targetServiceRevision"]["requestedTestTrafficWeight"] == 100.0

    shop.act(hook, "CONTINUE")
    shop.wait_until("SUCCESSFUL")
    assert (shop.ask(), shop.ask(TEST)) == ((200, "2"), (200, "2"))


def test_rolling_back_at_a_pause_keeps_all_requests_on_blue(shop: Shop) -> None:
    shop.create(shop.register("1"), BLUE_GREEN)
    shop.wait_until("SUCCESSFUL")
    shop.update(taskDefinition=shop.register("2"), deploymentConfiguration={"lifecycleHooks": [PAUSE]})
    shop.act(shop.wait_for_hook(), "ROLLBACK")
    ended = shop.wait_until("ROLLBACK_SUCCESSFUL")

    assert "PAUSE lifecycle hook of POST_TEST_TRAFFIC_SHIFT" in ended["statusReason"]
    assert (shop.ask(), shop.ask(TEST)) == ((200, "1"), (200, "1"))
    service = shop.ecs.describe_services(cluster=shop.name, services=[shop.name])["services"][0]
    assert service["taskDefinition"].endswith(":1")
    assert "rolloutState" not in service["deployments"][0]


def test_a_canary_splits_requests_between_the_versions_and_none_fails(shop: Shop) -> None:
    canary = {"canaryPercent": 50.0, "canaryBakeTimeInMinutes": 2}
    configuration = {**BLUE_GREEN, "strategy": "CANARY", "canaryConfiguration": canary}
    shop.create(shop.register("1"), configuration)
    shop.wait_until("SUCCESSFUL")
    shop.update(taskDefinition=shop.register("2"))
    answers: Counter[tuple[int, str | None]] = Counter()
    shares = set()
    until = time.monotonic() + 60
    while (shown := shop.deployment())["status"] != "SUCCESSFUL":
        assert time.monotonic() < until, shown
        shares.add(shown["targetServiceRevision"]["requestedProductionTrafficWeight"])
        answers.update(shop.ask() for _ in range(5))

    assert set(answers) == {(200, "1"), (200, "2")}
    assert {0.0, 50.0} <= shares
    assert shop.ask() == (200, "2")


@pytest.mark.exhaustive
def test_a_crashing_green_trips_the_breaker_before_it_gets_any_request(shop: Shop) -> None:
    shop.create(shop.register("1"), BLUE_GREEN)
    shop.wait_until("SUCCESSFUL")
    shop.update(taskDefinition=shop.register("2", mode="crash"))
    ended = shop.wait_until("ROLLBACK_SUCCESSFUL")

    assert "circuit breaker" in ended["statusReason"]
    assert shop.ask() == (200, "1")


@pytest.mark.exhaustive
def test_a_rolling_service_can_change_to_blue_green_but_not_back(shop: Shop) -> None:
    plain = {"targetGroupArn": shop.groups[0], "containerName": "model", "containerPort": 3000}
    shop.ecs.create_service(
        cluster=shop.name,
        serviceName=shop.name,
        taskDefinition=shop.register("1"),
        desiredCount=1,
        loadBalancers=[plain],
        networkConfiguration={"awsvpcConfiguration": {"subnets": shop.subnets}},
    )
    shop.wait_until("SUCCESSFUL")
    shop.update(taskDefinition=shop.register("2"), deploymentConfiguration=BLUE_GREEN, loadBalancers=[shop.balancer()])
    shop.wait_until("SUCCESSFUL")

    assert shop.ask() == (200, "2")
    with pytest.raises(ClientError, match="cannot change BLUE_GREEN back to ROLLING"):
        shop.update(deploymentConfiguration={"strategy": "ROLLING"})


@pytest.mark.exhaustive
def test_rules_that_do_not_forward_to_both_groups_roll_the_deployment_back(shop: Shop) -> None:
    only_one = [{"Type": "forward", "TargetGroupArn": shop.groups[0]}]
    for rule in (shop.production_rule, shop.test_rule):
        shop.elb.modify_rule(RuleArn=rule, Actions=only_one)
    shop.create(shop.register("1"), BLUE_GREEN)
    ended = shop.wait_until("ROLLBACK_FAILED")

    assert "Both targetGroup and alternateTargetGroup must be associated" in ended["statusReason"]


@pytest.mark.parametrize(
    ("configuration", "advanced", "said"),
    [
        (BLUE_GREEN, {"productionListenerRule": "arn:listener"}, "productionListenerRule has an invalid ARN format"),
        (BLUE_GREEN, {"roleArn": "arn:aws:iam::123456789012:role/nobody"}, "unable to assume the configured ECS Infra"),
        ({"strategy": "CANARY", "canaryConfiguration": {"canaryPercent": 0.0}}, {}, "canaryPercent must be between"),
        ({"strategy": "LINEAR", "linearConfiguration": {"stepPercent": 1.0}}, {}, "stepPercent must be between"),
        (
            {**BLUE_GREEN, "lifecycleHooks": [{**PAUSE, "lifecycleStages": ["PRODUCTION_TRAFFIC_SHIFT"]}]},
            {},
            "not supported for lifecycle stage PRODUCTION_TRAFFIC_SHIFT",
        ),
        ({**BLUE_GREEN, "lifecycleHooks": [{"hookTargetArn": "arn:aws:lambda:x"}]}, {}, "only supports PAUSE"),
    ],
)
def test_settings_that_ecs_refuses_are_refused(shop: Shop, configuration: Any, advanced: Any, said: str) -> None:
    with pytest.raises(ClientError, match=said):
        shop.create(shop.register("1"), configuration, **advanced)


@pytest.mark.exhaustive
def test_only_a_waiting_pause_can_be_continued(shop: Shop) -> None:
    shop.create(shop.register("1"), {**BLUE_GREEN, "lifecycleHooks": [PAUSE]})
    hook = shop.wait_for_hook()
    with pytest.raises(ClientError, match="AWAITING_ACTION"):
        shop.act("another", "CONTINUE")
    shop.act(hook, "CONTINUE")
    shop.wait_until("SUCCESSFUL")

    with pytest.raises(ClientError, match="AWAITING_ACTION"):
        shop.act(hook, "CONTINUE")

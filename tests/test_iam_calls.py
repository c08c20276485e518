"""The calls that are really made, over all options, are allowed by the policies in docs/iam.

They are recorded below boto3, with the actions that AWS checks along with them (support/aws_actions.py). What a party
may do and what it does are compared in both directions where it does little: the webhook service.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import moto.settings
import pytest

from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.lease import S3Lease
from mlflow_fargate.aws.topics import Topic
from mlflow_fargate.config import NamedOptions, parse_config
from mlflow_fargate.deployments import cleanup, keys, operations, webhook_service
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.deployments.logs import read_logs
from mlflow_fargate.deployments.roll_back import roll_back
from mlflow_fargate.doctor.examination import examine
from mlflow_fargate.errors import RolloutFailed
from support.aws_actions import OF_S3, OF_THE_REGISTRY, OF_THE_WEBHOOKS_OPTIONS, calls_in_the_sources, recorded_actions
from support.deployer import CRASHING, create
from support.iam_policies import allowed

FOLLOWING = {webhook_service.TRACKING_URI: "https://mlflow.example.com", "health_check_grace_seconds": 0}
ROLE = "arn:aws:iam::123456789012:role/churn"


@dataclass(frozen=True)
class Recorded:
    """A deployer whose calls are recorded; `call` makes one that is not, for what a test prepares."""

    deployer: Deployer
    call: Callable[..., dict[str, Any]]

    def update(self, **options: Any) -> None:
        self.deployer.update("churn", None, None, NamedOptions(options))


def record(deployer: Deployer, act: Callable[[Recorded], object]) -> set[str]:
    """Returns the actions that AWS checks while `act` runs: those of its calls, and those that they imply."""
    with recorded_actions() as seen:
        account = Account(deployer.target, sleep=lambda seconds: time.sleep(min(seconds, 0.3)))
        act(Recorded(replace(deployer, account=account), deployer.account.session.call))
    return seen.all()


def subnets_of(deployer: Deployer) -> str:
    """The endpoint's subnets, as the option takes them."""
    return ",".join(deployer.account.endpoint("default").spec(parse_config(None)).network.subnets)


def forget_lifecycle_policy(deployer: Deployer) -> None:
    """Leaves the repository as an earlier release created it."""
    repository = deployer.account.endpoint("default").repository
    repository.ensure()
    deployer.account.session.call("ecr", "delete_lifecycle_policy", repositoryName=repository.name)


def whole_life(it: Recorded) -> None:
    deployer = it.deployer
    deployer.create_endpoint("default", parse_config({}))
    repository = deployer.account.endpoint("default").repository
    repository.newest_image()
    deployer.account.registry_login()
    create(deployer, auth="api_key", max_error_rate=5)
    it.update(max_error_rate="")
    it.update(desired_count=2, deregistration_delay_seconds=1)
    it.update(max_count=3, **{"schedule.night": "cron(0 20 * * ? *) 0"})
    it.update(target_memory_percent=70, schedule="", max_count=4)
    with pytest.raises(RolloutFailed):
        deployer.update("churn", CRASHING, None, NamedOptions({"environment.MODE": "crash"}))
    it.update(strategy="blue_green", test_green=False, bake_time_minutes=0)
    it.update(subnets=subnets_of(deployer), wait=False)
    deployer.account.read_api_key(deployer.get("churn").api_key_secret or "")
    keys.rotate(deployer, "churn")
    keys.finish(deployer, "churn")
    operations.tasks(deployer, "churn")
    operations.events(deployer, "churn")
    list(read_logs(deployer, "churn", 0))
    operations.history(deployer, "churn")
    list(deployer.list())
    deployer.delete("churn")


def reading_and_going_back(it: Recorded) -> None:
    create(it.deployer, auth="none")
    it.deployer.update("churn", "models:/churn/2", None, NamedOptions())
    roll_back(it.deployer, "churn")
    operations.scale(it.deployer, "churn", 0)
    it.deployer.endpoint.traffic("churn")
    list(it.deployer.account.endpoints())
    it.deployer.delete("churn")


def inference_logs(it: Recorded) -> None:
    it.call("s3", "create_bucket", Bucket="logs")
    create(it.deployer, inference_log="s3://logs/churn", wait=False)
    it.update(inference_log="s3://logs/other", wait=False)
    it.deployer.delete("churn")


def images(it: Recorded) -> None:
    """Kept by one deletion, deleted by the next; and the doctor reads their scan."""
    repository = it.deployer.endpoint.repository
    repository.ensure()
    nothing = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}
    place = {"repositoryName": repository.name, "imageTag": "churn.0123"}
    it.call("ecr", "put_image", **place, imageManifest=json.dumps(nothing))
    examine(it.deployer.endpoint, parse_config({}), None)
    create(it.deployer, wait=False)
    it.deployer.delete("churn", {"images", "logs"})
    create(it.deployer, wait=False)
    it.deployer.delete("churn")
    it.deployer.delete_endpoint(it.deployer.target.endpoint)


def networks(it: Recorded) -> None:
    subnets = it.call("ec2", "describe_subnets")["Subnets"]
    two, three = (",".join(subnet["SubnetId"] for subnet in subnets[:number]) for number in (2, 3))
    where = {"vpc": subnets[0]["VpcId"], "subnets": two, "load_balancer_subnets": two}
    create(it.deployer, **where, scheme="internal", allowed_cidrs="10.0.0.0/8,192.168.0.0/16", wait=False)
    it.update(load_balancer_subnets=three, allowed_cidrs="10.0.0.0/8", wait=False)
    it.update(wait=False, **{"environment.REQUEST_TIMEOUT_SECONDS": "120"})
    it.deployer.delete("churn")


def existing_load_balancers(it: Recorded) -> None:
    vpc = it.call("ec2", "describe_vpcs")["Vpcs"][0]["VpcId"]
    group = it.call("ec2", "create_security_group", GroupName="shared", Description="theirs", VpcId=vpc)["GroupId"]
    subnets = [subnet["SubnetId"] for subnet in it.call("ec2", "describe_subnets")["Subnets"]][:2]
    balancer = it.call("elbv2", "create_load_balancer", Name="shared", Subnets=subnets, SecurityGroups=[group])
    arn = balancer["LoadBalancers"][0]["LoadBalancerArn"]
    nothing = [{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "404"}}]
    made = it.call("elbv2", "create_listener", LoadBalancerArn=arn, Protocol="HTTP", Port=80, DefaultActions=nothing)
    listener = made["Listeners"][0]["ListenerArn"]
    shape = {"Protocol": "HTTP", "Port": 80, "VpcId": vpc, "TargetType": "ip"}
    targets = it.call("elbv2", "create_target_group", Name="shared", **shape)["TargetGroups"][0]["TargetGroupArn"]
    forward = [{"Type": "forward", "TargetGroupArn": targets}]
    its_path = [{"Field": "path-pattern", "Values": ["/theirs"]}]
    it.call("elbv2", "create_rule", ListenerArn=listener, Priority=1, Conditions=its_path, Actions=forward)
    try:
        for option, value in (
            ("listener_arn", listener),
            ("load_balancer_arn", arn),
            ("target_group_arn", targets),
        ):
            create(it.deployer, **{option: value}, security_groups=group, wait=False)
            it.deployer.delete("churn")
    finally:
        it.deployer.delete_endpoint(it.deployer.target.endpoint)
        it.call("elbv2", "delete_load_balancer", LoadBalancerArn=arn)
        it.call("elbv2", "delete_target_group", TargetGroupArn=targets)
        it.call("ec2", "delete_security_group", GroupId=group)


def certificates(it: Recorded) -> None:
    made = [it.call("acm", "request_certificate", DomainName=f"{name}.example.org") for name in ("churn", "other")]
    first, second = (one["CertificateArn"] for one in made)
    create(it.deployer, certificate_arn=first, host="churn.example.org", wait=False)
    it.deployer.create_endpoint(it.deployer.target.endpoint, parse_config({"certificate_arn": second}))
    examine(it.deployer.endpoint, parse_config({"certificate_arn": first}), None)
    it.update(host="other.example.org", wait=False)
    it.deployer.delete("churn")


def domains(it: Recorded) -> None:
    zone = it.call("route53", "create_hosted_zone", Name="example.com", CallerReference="recorded")["HostedZone"]["Id"]
    try:
        for name in ("churn", "fraud"):
            create(it.deployer, name, domain=f"{name}.example.com", wait=False)
        it.deployer.update("fraud", None, None, NamedOptions({"domain": "fraud.example.com", "wait": False}))
        it.deployer.delete("fraud")
        it.deployer.delete("churn")
        it.deployer.delete_endpoint(it.deployer.target.endpoint)
    finally:
        it.call("route53", "delete_hosted_zone", Id=zone)


def task_options(it: Recorded) -> None:
    token = it.call("secretsmanager", "create_secret", Name="mlflow-fargate/token", SecretString="x")["ARN"]
    parameter = "arn:aws:ssm:us-east-1:123456789012:parameter/mlflow-fargate/token"
    create(
        it.deployer,
        wait=False,
        efs={"/mnt/data": "fs-0a1b2c3d:fsap-0a1b2c3d4e5f:ro", "/mnt/more": "fs-0a1b2c3d:/models"},
        spot=True,
        on_demand_base=1,
        container_health_check="true",
        tags={"team": "pricing"},
        **{"secrets.TOKEN": token, "secrets.OTHER": parameter},
    )
    it.update(tags={"group": "pricing"}, **{"secrets.OTHER": ""}, wait=False)
    it.deployer.delete("churn")


def commands_in_tasks(it: Recorded) -> None:
    create(it.deployer, enable_execute_command=True, task_role_arn=ROLE, **{"environment.MODE": "gentle"})
    environment = replace(it.deployer.target.environment, session_manager_plugin=("true",))
    with_plugin = replace(it.deployer, target=replace(it.deployer.target, environment=environment))
    operations.open_command(with_plugin, "churn", "ls")
    it.deployer.delete("churn")


def strategies(it: Recorded) -> None:
    create(it.deployer, strategy="blue_green", bake_time_minutes=0, auth="api_key", test_green=True)
    it.deployer.update("churn", "models:/churn/2", None, NamedOptions({"test_green": True}))
    for strategy in ("canary", "linear"):
        it.update(strategy=strategy, wait=False)
    it.deployer.delete("churn")


def webhook(it: Recorded) -> None:
    webhook_service.deploy(it.deployer, NamedOptions({**FOLLOWING, "wait": False}), ["models"])
    webhook_service.deploy(it.deployer, NamedOptions({"memory": 4096, "wait": False}))
    webhook_service.get(it.deployer)
    webhook_service.deploy(it.deployer, NamedOptions({"task_role_arn": ROLE, "wait": False}))
    webhook_service.delete(it.deployer)


def changed_by_hand(it: Recorded) -> None:
    """A cluster without Spot, a key that is scheduled for deletion, and what `gc` finds after a killed deletion."""
    cluster = f"mlflow-fargate-{it.deployer.target.endpoint}"
    ours = {"managed-by": "mlflow-fargate", "mlflow-fargate:endpoint": it.deployer.target.endpoint}
    it.call("ecs", "create_cluster", clusterName=cluster, tags=[{"key": key, "value": ours[key]} for key in ours])
    create(it.deployer, auth="api_key", max_count=2, spot=True, wait=False)
    it.call("secretsmanager", "delete_secret", SecretId=it.deployer.get("churn").api_key_secret)
    it.update(cpu=512, memory=1024, wait=False)
    it.call("ecs", "delete_service", cluster=cluster, service="churn", force=True)
    for orphan in list(it.deployer.account.orphans()):
        cleanup.collect(it.deployer, orphan)
    examine(it.deployer.endpoint, parse_config({}), None)


def stacks(it: Recorded) -> None:
    assert it.deployer.account.stack("mlflow") is None


LIVES = (
    whole_life,
    reading_and_going_back,
    inference_logs,
    images,
    networks,
    existing_load_balancers,
    certificates,
    domains,
    task_options,
    commands_in_tasks,
    strategies,
    webhook,
    changed_by_hand,
    stacks,
)


@pytest.fixture
def webhook_image(deployer: Deployer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The webhook service's image is the one of all models."""
    image = deployer.publisher.image  # type: ignore[attr-defined]

    class OneImage:
        def __init__(self, *_: object) -> None:
            pass

        def publish(self, _: object) -> str:
            return str(image)

        def find(self, _: object) -> None:
            return None

    monkeypatch.setattr("mlflow_fargate.publisher.WebhookPublisher", OneImage)


@pytest.fixture
def endpoints(deployer: Deployer) -> Iterator[Callable[[str], Deployer]]:
    """Returns deployers on endpoints of their own, which are deleted in the end."""
    made: list[Deployer] = []

    def deployer_on(name: str) -> Deployer:
        made.append(replace(deployer, target=replace(deployer.target, endpoint=name)))
        return made[-1]

    yield deployer_on
    for one in made:
        webhook_service.delete(one)
        for status in list(one.list()):
            one.delete(status.name)
        one.delete_endpoint(one.target.endpoint)


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("webhook_image")
def test_every_call_in_the_sources_is_made_with_some_option_and_allowed(
    endpoints: Callable[[str], Deployer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moto.settings, "ACM_VALIDATION_WAIT", 1)
    may = allowed("deployer") | allowed("deployer-options")
    made = {
        life.__name__: record(endpoints("default" if life is whole_life else f"e{number}"), life)
        for number, life in enumerate(LIVES)
    }

    assert {name: denied for name, actions in made.items() if (denied := sorted(actions - may))} == {}
    unrecorded = calls_in_the_sources() - OF_S3 - OF_THE_WEBHOOKS_OPTIONS - set().union(*made.values())
    assert unrecorded == set()


@pytest.mark.slow
def test_the_calls_really_made_are_allowed(deployer: Deployer) -> None:
    made = record(deployer, whole_life)

    assert len(made) > 50
    assert sorted(made - (allowed("deployer") | allowed("deployer-options"))) == []


@pytest.mark.slow
def test_the_webhook_has_the_permissions_of_a_redeploy_and_no_more(deployer: Deployer) -> None:
    deployer.create_endpoint("default", parse_config({}))
    secret = deployer.account.session.call("secretsmanager", "create_secret", Name="shared", SecretString="token")[
        "ARN"
    ]
    options = {"host": "churn.example.com", "secrets.TOKEN": secret, "subnets": subnets_of(deployer)}
    create(deployer, auth="api_key", max_count=2, **options)
    forget_lifecycle_policy(deployer)

    def redeploy(it: Recorded) -> None:
        counted = it.deployer
        list(counted.list())
        list(counted.account.endpoints())
        counted.account.endpoint("default").repository.ensure()
        counted.account.endpoint("default").repository.newest_image()
        counted.account.registry_login()
        counted.update("churn", "models:/churn/2", None, NamedOptions())

    made = record(deployer, redeploy)

    assert sorted(made - allowed("webhook")) == []
    # When a new version does not start, its tasks and their last lines are looked at.
    # A key that a deletion left is restored.
    after_a_failure = {
        "secretsmanager:RestoreSecret",
        "ecs:ListTasks",
        "ecs:DescribeTasks",
        "logs:GetLogEvents",
        "ecs:DescribeServiceRevisions",
    }
    assert sorted(allowed("webhook") - made - OF_THE_REGISTRY - OF_S3 - after_a_failure) == []


@pytest.mark.slow
def test_a_deployed_webhook_service_can_create_and_delete_deployments(deployer: Deployer) -> None:
    create(deployer)
    deployer.account.session.call("s3", "create_bucket", Bucket="logs")
    create(deployer, "recorded", inference_log="s3://logs/churn", wait=False)

    forget_lifecycle_policy(deployer)

    def follow(it: Recorded) -> None:
        counted = it.deployer
        counted.account.endpoint("default").repository.ensure()
        create(counted, "fraud", auth="api_key", wait=False, subnets=subnets_of(counted))
        counted.delete("fraud")
        counted.delete("recorded")

    made = record(deployer, follow)

    assert sorted(made - allowed("webhook-task")) == []
    assert {"ecs:CreateService", "ecs:DeleteService", "secretsmanager:CreateSecret"} <= made


@pytest.mark.slow
def test_the_webhook_services_options_need_what_their_policy_allows(deployer: Deployer) -> None:
    def hold_and_tell(it: Recorded) -> None:
        topic = it.call("sns", "create_topic", Name="rollouts")["TopicArn"]
        it.call("s3", "create_bucket", Bucket="leases")
        lease = S3Lease(it.deployer.account.session, "s3://leases/webhook.json", "one", 30.0)
        assert lease.renew()
        lease.release()
        Topic(it.deployer.target, topic).publish("churn", "version 3 is deployed")

    made = record(deployer, hold_and_tell)

    assert made == OF_THE_WEBHOOKS_OPTIONS
    assert made <= allowed("webhook-options")

"""The webhook service on Fargate: deployed with the deployments' own machinery, and no deployment itself."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result

from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.ecs_service import describe_service
from mlflow_fargate.aws.endpoint import Endpoint
from mlflow_fargate.aws.resource_types.service import ServiceType
from mlflow_fargate.cli import main
from mlflow_fargate.config import DeploymentConfig, NamedOptions, parse_config
from mlflow_fargate.deployments import cleanup, webhook_service
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import DeploymentExists, DeploymentNotFound, EndpointInUse, InvalidOption
from mlflow_fargate.image import Platform, Reference, Registry
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.plan import Found, Plan, Properties
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.publisher import webhook_image
from mlflow_fargate.publisher.this_package import copy_package, package_requirements
from mlflow_fargate.resources import EndpointSpec, Network, WebhookSpec, webhook_resources
from mlflow_fargate.target import Target, TargetEnvironment
from support.base_image import seed_shared_base_image
from support.deployer import TARGET, count_writes, create

SERVER = "https://mlflow.example.com"
FOLLOWING: dict[str, Any] = {webhook_service.TRACKING_URI: SERVER, "health_check_grace_seconds": 0}
NO_WAIT = {**FOLLOWING, "wait": False}
LINUX = Platform.parse("linux/amd64")
SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:mlflow-webhook-Ab12Cd"
ENDPOINT = EndpointSpec("prod", Network("vpc-1", ("subnet-a", "subnet-b")), "eu-west-1", "123456789012")


class FakeWebhookPublisher:
    """Has one image for all models."""

    def __init__(self, image: str) -> None:
        self._image = image

    def __call__(self, *_: object) -> FakeWebhookPublisher:
        return self

    def publish(self, config: DeploymentConfig) -> str:
        return self._image

    def find(self, config: DeploymentConfig) -> str | None:
        return None


@pytest.fixture
def image(push_image: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> str:
    """A small server that listens where the webhook service should."""
    pushed = push_image()
    monkeypatch.setattr("mlflow_fargate.publisher.WebhookPublisher", FakeWebhookPublisher(pushed))
    return pushed


@pytest.fixture
def here(deployer: Deployer, image: str) -> Iterator[Deployer]:
    yield deployer
    webhook_service.delete(deployer)


@pytest.fixture
def call(plugged_in: Deployer, image: str) -> Iterator[Callable[..., Result]]:
    yield lambda *words: CliRunner().invoke(main, ["webhook", *words])
    webhook_service.delete(plugged_in)


def spec(**options: Any) -> WebhookSpec:
    config = parse_config({webhook_service.TRACKING_URI: SERVER, **options}, parse_config({"auth": "none"}))
    return WebhookSpec("_webhook", ENDPOINT, config, "image@sha256:1", "fargate:/eu-west-1/prod", ("models",))


def kinds(wanted: WebhookSpec) -> list[str]:
    return [resource.resource_type for resource in webhook_resources(wanted) if resource.is_wanted]


def property_of(wanted: WebhookSpec, kind: str, name: str) -> Any:
    return next(getattr(item.properties, name) for item in webhook_resources(wanted) if item.resource_type == kind)


def test_it_has_the_resources_of_a_deployment_with_a_role_instead_of_a_key() -> None:
    assert kinds(spec()) == [
        "log group",
        "task role",
        "target group",
        "listener rule",
        "task definition",
        "service",
    ]
    assert property_of(spec(), "listener rule", "paths") == ("/_webhook", "/_webhook/*")
    assert property_of(spec(), "target group", "health_check_path") == "/_webhook/readyz"
    assert property_of(spec(), "service", "desired_count") == 1


def test_a_role_that_is_given_is_taken_and_none_is_made() -> None:
    role = "arn:aws:iam::123456789012:role/hooks"

    assert "task role" not in kinds(spec(task_role_arn=role))
    assert property_of(spec(task_role_arn=role), "task definition", "task_role_arn") == role


def test_secrets_are_named_by_arn_and_the_execution_role_may_read_them() -> None:
    wanted = spec(**{"secrets.FARGATE_WEBHOOK_SECRET": SECRET})

    assert property_of(wanted, "task definition", "secrets") == {"FARGATE_WEBHOOK_SECRET": SECRET}
    assert property_of(wanted, "secrets policy", "secrets") == (SECRET,)


def test_the_service_knows_its_address_whatever_the_options() -> None:
    wanted = spec(port=4000, **{"environment.FARGATE_WEBHOOK_PORT": "1"})
    environment = property_of(wanted, "task definition", "environment")

    assert environment["FARGATE_TARGET"] == "fargate:/eu-west-1/prod"
    assert environment["FARGATE_WEBHOOK_PORT"] == "4000"
    assert environment["FARGATE_WEBHOOK_PREFIX"] == "/_webhook"
    assert environment["MLFLOW_TRACKING_URI"] == SERVER


def test_its_role_hands_on_no_roles_but_those_of_ecs_each_to_whom_it_is_meant_for_and_creates_none() -> None:
    policy = property_of(spec(), "task role", "policy")
    actions = [(action, statement) for statement in policy["Statement"] for action in statement["Action"]]
    handed = {
        resource: statement["Condition"]["StringEquals"]["iam:PassedToService"]
        for action, statement in actions
        if action == "iam:PassRole"
        for one in [statement["Resource"]]
        for resource in ([one] if isinstance(one, str) else one)
    }

    role = "arn:aws:iam::123456789012:role/mlflow-fargate-prod-eu-west-1"
    of_logs = "arn:aws:iam::123456789012:role/mlflow-fargate-prod_log-*"
    tasks = "ecs-tasks.amazonaws.com"
    assert handed == {role: tasks, of_logs: tasks, f"{role}-infrastructure": "ecs.amazonaws.com"}
    assert {action: one["Resource"] for action, one in actions if re.match("iam:(?!Get|Pass)", action)} == {
        f"iam:{deletes}": of_logs for deletes in ("DeleteRole", "DeleteRolePolicy", "ListRolePolicies")
    }
    assert not [action for action, _ in actions if "*" in action]


def test_its_role_is_called_as_no_endpoints_role_can_be() -> None:
    other = replace(ENDPOINT, name="prod-webhook")

    assert spec().role_name not in {ENDPOINT.execution_role_name, other.execution_role_name}


def test_its_role_reads_the_buckets_and_writes_the_lease_and_the_topic_that_are_named() -> None:
    topic = "arn:aws:sns:eu-west-1:123456789012:rollouts"
    named = {"FARGATE_WEBHOOK_LEASE": "s3://shared/lease.json", "FARGATE_WEBHOOK_NOTIFY_TOPIC_ARN": topic}
    policy = property_of(spec(environment={**named, "MLFLOW_TRACKING_URI": SERVER}), "task role", "policy")
    allowed = [
        (action, statement["Resource"])
        for statement in policy["Statement"]
        for action in statement["Action"]
        if action.startswith(("s3:", "sns:"))
    ]

    assert allowed == [
        ("s3:ListBucket", "arn:aws:s3:::models"),
        ("s3:GetObject", "arn:aws:s3:::models/*"),
        ("s3:GetObject", "arn:aws:s3:::shared/lease.json"),
        ("s3:PutObject", "arn:aws:s3:::shared/lease.json"),
        ("sns:Publish", topic),
    ]


def test_the_whole_package_goes_into_the_image_and_nothing_compiled(tmp_path: Path) -> None:
    digest = copy_package(tmp_path / "one")

    assert copy_package(tmp_path / "two") == digest
    assert (tmp_path / "one/mlflow_fargate/webhook/http/templates/page.html").is_file()
    assert (tmp_path / "one/mlflow_fargate/service_template/service.py").is_file()
    assert (tmp_path / "one/mlflow_fargate/service_template/fargate_service/http/routes.py").is_file()
    assert "fargate = mlflow_fargate" in next((tmp_path / "one").glob("*.dist-info/entry_points.txt")).read_text()
    assert list((tmp_path / "one").rglob("__pycache__")) == []


def test_the_image_contains_what_the_service_needs_and_no_build_tools() -> None:
    names = {line.partition("==")[0].lower() for line in package_requirements("webhook", Platform.parse("linux/arm64"))}

    assert {"flask", "waitress", "boto3", "uv", "bentoml", "mlflow-skinny"} <= names
    assert names & {"moto", "pytest", "tensorflow", "mlflow"} == set()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "No tracking server is set"),
        ({webhook_service.TRACKING_URI: "sqlite:///mlflow.db"}, "must be http"),
        ({webhook_service.TRACKING_URI: "https://me:geheim@mlflow"}, "contains a password"),
        ({webhook_service.TRACKING_URI: "http://localhost:5000"}, "on this machine"),
        ({webhook_service.TRACKING_URI: "http://127.0.0.1:5000"}, "on this machine"),
        ({**FOLLOWING, "labels": "labels.json"}, "labels applies to model deployments"),
        ({**FOLLOWING, "max_count": 3}, "max_count applies to model deployments"),
        ({**FOLLOWING, "auth": "api_key"}, "auth applies to model deployments"),
        ({**FOLLOWING, "cpus": 3}, "Did you mean 'cpu'"),
        ({**FOLLOWING, webhook_service.RULES: "x" * 30_000}, "24 KiB"),
    ],
)
def test_what_would_only_show_in_a_task_is_refused_before_anything_is_built(
    options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target("fargate:/eu-west-1", region="eu-west-1", environment=TargetEnvironment())
    account = Account(target)
    monkeypatch.setattr(Endpoint, "webhook_status", lambda _: None)
    deployer = Deployer(target, account, None, None)  # type: ignore[arg-type]

    with pytest.raises(InvalidOption, match=said) as refused:
        webhook_service.deploy(deployer, NamedOptions(options))
    assert "geheim" not in str(refused.value)


@pytest.mark.slow
def test_it_runs_is_no_deployment_and_goes_without_a_trace(here: Deployer) -> None:
    create(here, wait=False)
    status = webhook_service.deploy(here, NamedOptions({**FOLLOWING, "cpu": 512}), ["models"])

    assert status is not None
    assert status.state == "COMPLETED"
    seen = requests.get(f"{status.url}/anything", timeout=10).json()["environment"]
    assert seen["FARGATE_WEBHOOK_PREFIX"] == "/_webhook"
    assert [one.name for one in here.list()] == ["churn"]
    with pytest.raises(DeploymentNotFound):
        here.get("_webhook")
    here.delete("churn")
    with pytest.raises(EndpointInUse, match="The webhook service is still on endpoint 'default'"):
        here.delete_endpoint("default")

    assert count_writes(here, lambda one: webhook_service.deploy(one, NamedOptions(FOLLOWING))) == Counter()

    webhook_service.delete(here)
    with pytest.raises(DeploymentNotFound):
        webhook_service.get(here)
    here.delete_endpoint("default")
    assert list(here.account.orphans()) == []
    assert count_writes(here, webhook_service.delete) == Counter()


@pytest.mark.slow
def test_what_is_not_named_again_stays_and_what_is_named_changes_alone(here: Deployer) -> None:
    webhook_service.deploy(
        here, NamedOptions({**NO_WAIT, "secrets.FARGATE_WEBHOOK_TOKEN": SECRET, "cpu": 512}), ["models"]
    )

    writes = count_writes(here, lambda one: webhook_service.deploy(one, NamedOptions({"memory": 4096, "wait": False})))

    assert writes == Counter(RegisterTaskDefinition=1, UpdateService=1)
    status = webhook_service.get(here)
    assert (status.settings.cpu, status.settings.memory_mib) == (512, 4096)
    assert status.settings.secrets == {"FARGATE_WEBHOOK_TOKEN": SECRET}
    assert status.artifact_buckets == ("models",)


@pytest.mark.exhaustive
def test_another_role_takes_the_place_of_the_one_that_was_made(here: Deployer) -> None:
    webhook_service.deploy(here, NamedOptions(NO_WAIT))
    made = webhook_service.get(here).task_role
    given = "arn:aws:iam::123456789012:role/hooks"

    webhook_service.deploy(here, NamedOptions({"task_role_arn": given, "wait": False}))

    assert made.endswith("role/mlflow-fargate-default_webhook-us-east-1")
    assert webhook_service.get(here).task_role == given
    iam = here.account.session.client("iam")
    assert made not in [role["Arn"] for role in iam.list_roles()["Roles"]]


@pytest.mark.slow
def test_what_a_killed_deletion_left_is_found_and_deleted(here: Deployer) -> None:
    webhook_service.deploy(here, NamedOptions(NO_WAIT))
    service = describe_service(here.account.session, "mlflow-fargate-default", "_webhook")
    assert service is not None
    ServiceType(here.account.session).delete(Found(service["serviceArn"], Properties()))

    orphans = list(here.account.orphans())
    assert [orphan.name for orphan in orphans] == ["_webhook"]
    for orphan in orphans:
        cleanup.collect(here, orphan)

    assert list(here.account.orphans()) == []


@pytest.mark.slow
def test_of_two_first_deployments_at_once_the_second_is_refused_with_the_services_own_commands(
    here: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, apply, done = replace(here, account=Account(here.target)), here.account.apply, []

    def apply_late(plan: Plan, *more: Any) -> Any:
        if not done and any(change.resource_type == "service" for change in plan.changes):
            done.append(webhook_service.deploy(first, NamedOptions({**NO_WAIT, "cpu": 512})))
        return apply(plan, *more)

    monkeypatch.setattr(here.account, "apply", apply_late)
    with pytest.raises(DeploymentExists) as caught:
        webhook_service.deploy(here, NamedOptions({**NO_WAIT, "memory": 4096}))

    assert caught.value.hint == (
        "see what is deployed with: mlflow-fargate webhook status; change it with: mlflow-fargate webhook deploy"
    )


def write_line(deployer: Deployer, group: str, message: str) -> None:
    """As a task's log driver does."""
    logs, stream = deployer.account.session.client("logs"), "task/model/0123abcd4567"
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    event = {"timestamp": int(time.time() * 1000), "message": message}
    logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=[event])


@pytest.mark.slow
def test_the_command_deploys_shows_and_deletes(
    call: Callable[..., Result], plugged_in: Deployer, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("models:\n  churn: {stage: Production, config: {cpu: 512}}\n")
    options = ["-C", "wait=false", "--artifacts", "models"]

    planned = call("deploy", "-t", TARGET, "--tracking-uri", SERVER, "--rules", str(rules), *options, "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert "create task role mlflow-fargate-default_webhook-us-east-1" in planned.stderr
    assert call("status", "-t", TARGET).exit_code == 1

    done = call("deploy", "-t", TARGET, "--tracking-uri", SERVER, "--rules", str(rules), *options)
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("/_webhook\n")
    shown = json.loads(call("status", "-t", TARGET, "--json").stdout)
    environment = shown["settings"]["environment"]
    assert json.loads(environment["FARGATE_WEBHOOK_MODELS"]) == {
        "churn": {"stage": "Production", "config": {"cpu": 512}}
    }
    assert SERVER in call("status", "-t", TARGET).stdout
    write_line(plugged_in, shown["log_group"], "it looked")
    assert re.search(r"^\S+T\S+ 0123abcd  it looked$", call("logs", "-t", TARGET).stdout, re.MULTILINE)
    lines = map(json.loads, call("logs", "-t", TARGET, "--json").stdout.splitlines())
    assert "it looked" in {line["message"] for line in lines}

    assert call("undeploy", "-t", TARGET).exit_code == 0
    for verb in ("status", "logs"):
        assert "no webhook service on endpoint 'default'" in call(verb, "-t", TARGET).output


def test_rules_with_a_mistake_are_refused_here(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("models:\n  churn: {stagee: Production}\n")

    done = CliRunner().invoke(main, ["webhook", "deploy", "-t", TARGET, "--rules", str(rules)])

    assert done.exit_code == 1
    assert "models.churn.stagee" in done.output


def test_registering_needs_a_url_or_a_target() -> None:
    assert CliRunner().invoke(main, ["webhook", "register"]).exit_code == 2


def test_its_image_is_built_once_starts_the_service_and_holds_no_model(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_image, "package_requirements", lambda *_: ())
    seed_shared_base_image(registry.store)
    name = f"{registry.address}/mlflow-fargate/images"
    repository = SimpleNamespace(ensure=lambda: name, newest_image=lambda: None)
    account: Any = SimpleNamespace(
        endpoint=lambda _: SimpleNamespace(repository=repository),
        registry_login=lambda: (registry.address, "AWS", "password"),
    )
    mirrored = TargetEnvironment(registry_mirrors={"public.ecr.aws": registry.address})
    target = Target("fargate:/eu-west-1", region="eu-west-1", environment=mirrored)
    progress = RecordedProgress()
    publisher = webhook_image.WebhookPublisher(target, account, tmp_path / "cache", progress)

    image = publisher.publish(parse_config({}))

    reference = Reference.parse(image)
    with Registry(registry.address) as client:
        manifest = client.read_manifest(reference.repository, reference.identifier, LINUX).manifest
        config = client.read_json(reference.repository, manifest.config)
    assert config["config"]["Entrypoint"][-2:] == ["webhook", "serve"]
    assert len(manifest.layers) == 3  # the base's one, bytecode for its standard library, and this package
    assert publisher.publish(parse_config({})) == image
    assert "the image is already in the repository" in progress.lines[-1]

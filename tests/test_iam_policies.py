"""docs/iam: what the policies allow is what the code calls, no less and no more.

Which calls there are is read from the sources (every one goes through `AwsSession`). What they need besides their own
action comes from the parameters of the calls that were made, seen below boto3, and from AWS's documents
(support/implied_actions.py).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.resource_types.iam import infrastructure_trust, task_trust
from mlflow_fargate.cli import main
from mlflow_fargate.config import NamedOptions, parse_config
from mlflow_fargate.deployments import keys, operations
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.deployments.logs import read_logs
from mlflow_fargate.errors import RolloutFailed
from mlflow_fargate.resources import EndpointSpec, Network, execution_policy, infrastructure_policy, webhook_policy
from support.deployer import CRASHING, create
from support.iam_policies import allowed, policy
from support.implied_actions import IMPLIED, Implied, with_implied

ROOT = Path(__file__).parents[1]
IAM_NAMES = {
    "resourcegroupstaggingapi": "tag",
    "tagging": "tag",
    "service-quotas": "servicequotas",
    "elbv2": "elasticloadbalancing",
    "elastic-load-balancing-v2": "elasticloadbalancing",
}
# Calls that IAM knows under another name; the first needs no permission at all.
OTHER_ACTIONS = {
    "sts:GetCallerIdentity": None,
    "s3:ListObjectsV2": "s3:ListBucket",
}
# The registry is called by its own protocol, not through boto3; ECR requires these permissions from its clients.
# https://docs.aws.amazon.com/AmazonECR/latest/userguide/image-push-iam.html
OF_THE_REGISTRY = {
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:CompleteLayerUpload",
    "ecr:GetDownloadUrlForLayer",
    "ecr:InitiateLayerUpload",
    "ecr:PutImage",
    "ecr:UploadLayerPart",
}
# Calls of boto3 itself, in aws/s3.py.
OF_S3 = {"s3:GetObject", "s3:ListBucket"}
# Only the webhook service calls these, with the options for them.
OF_THE_WEBHOOKS_OPTIONS = {"sns:Publish", "s3:GetObject", "s3:PutObject"}
# For strategies that shift traffic: ECS continues once the new tasks have passed a test, with the API key.
OF_SHIFTING = {
    "ecs:ContinueServiceDeployment",
    "ecs:DescribeServiceDeployments",
    "iam:PassRole",
    "secretsmanager:GetSecretValue",
}
# What AWS asks for when a call carries tags.
TAGGING = {
    "acm": "acm:AddTagsToCertificate",
    "application-autoscaling": "application-autoscaling:TagResource",
    "ecs": "ecs:TagResource",
    "ecr": "ecr:TagResource",
    "ec2": "ec2:CreateTags",
    "elasticloadbalancing": "elasticloadbalancing:AddTags",
    "iam": "iam:TagRole",
    "logs": "logs:TagResource",
    "secretsmanager": "secretsmanager:TagResource",
}
OF_PARAMETERS = {*TAGGING.values(), "iam:PassRole"}
READS = ("Describe", "List", "Get", "BatchGet", "BatchCheck", "Filter", "Simulate")


README = (ROOT / "docs/iam/README.md").read_text(encoding="utf-8")
# Policies that one party has together.
PARTIES = (("deployer", "deployer-options"), ("webhook", "webhook-options"), ("webhook-task",))


def allowed_by(policies: tuple[str, ...]) -> set[str]:
    return {action for name in policies for action in allowed(name)}


def lacking(actions: set[str], rows: tuple[Implied, ...]) -> set[tuple[str, str]]:
    """(call, action) of each action that an allowed call implies and that is not allowed."""
    return {(row.call, action) for row in rows if row.call in actions for action in set(row.actions) - actions}


def documented_rows(rows: tuple[Implied, ...]) -> list[str]:
    """The table of docs/iam/README.md."""
    return [
        f"| `{row.call}` | {', '.join(f'`{action}`' for action in row.actions)} | [{row.gist}]({row.source}) |"
        for row in rows
    ]


def table_of(page: str) -> list[str]:
    return page.partition("| call | actions | why |\n|---|---|---|\n")[2].partition("\n\n")[0].strip().splitlines()


def of_the_deployer() -> set[str]:
    """Two policies, for one would be longer than IAM takes: what every deployment needs, and what some options need."""
    return allowed("deployer") | allowed("deployer-options")


def calls_in_the_sources() -> set[str]:
    """Every action that aws/ can call."""
    found = set()
    for path in sorted((ROOT / "mlflow_fargate/aws").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"call", "delete", "find", "pages"}
                and len(node.args) >= 2  # a kind of resource has a `delete` too
            ):
                service, operation = node.args[:2]
                if path.name == "session.py" and isinstance(service, ast.Name):
                    continue  # `delete` passes its operation to `call`
                assert isinstance(service, ast.Constant), (path, node.lineno)
                assert isinstance(operation, ast.Constant), (path, node.lineno)
                name = "".join(part.capitalize() for part in operation.value.split("_"))
                found.add(action_of(service.value, name))
    return {action for action in found if action}


def action_of(service: str, operation: str) -> str | None:
    action = f"{IAM_NAMES.get(service, service)}:{operation}"
    return OTHER_ACTIONS.get(action, action)


def record(deployer: Deployer, act: Callable[[Deployer], object]) -> set[str]:
    """The actions that AWS checks while `act` runs: those of the calls, seen below boto3, and those that they imply."""
    account = Account(deployer.target)
    seen: set[str | None] = set()

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        service = model.service_model.endpoint_prefix
        service = {"api.ecr": "ecr"}.get(service, service)
        seen.add(action_of(service, model.name))
        if params.get("tags") or params.get("Tags") or params.get("TagSpecifications"):
            seen.add(TAGGING[service])
        if params.get("executionRoleArn"):
            seen.add("iam:PassRole")

    account.session._session.events.register("provide-client-params", note)
    act(replace(deployer, account=account))
    return with_implied(action for action in seen if action)


def forget_lifecycle_policy(deployer: Deployer) -> None:
    """Leaves the repository as an earlier release created it."""
    repository = deployer.account.endpoint("default").repository
    repository.ensure()
    deployer.account.session.call("ecr", "delete_lifecycle_policy", repositoryName=repository.name)


def subnets_of(deployer: Deployer) -> str:
    """The endpoint's subnets, as the option takes them."""
    return ",".join(deployer.account.endpoint("default").spec(parse_config(None)).network.subnets)


def test_the_deployers_policy_allows_every_call_in_the_sources_and_nothing_else() -> None:
    calls = calls_in_the_sources() - OF_THE_WEBHOOKS_OPTIONS
    needed = with_implied(calls) | OF_THE_REGISTRY | OF_S3 | OF_PARAMETERS

    assert sorted(needed - of_the_deployer()) == []
    assert sorted(of_the_deployer() - needed) == []


@pytest.mark.parametrize("row", IMPLIED, ids=lambda row: f"{row.call}-{row.actions[0]}")
def test_each_row_decides_what_a_policy_needs_and_is_documented(row: Implied) -> None:
    """Without any one row, this test fails; with it, a policy that lacks its actions is found."""
    calling = [policies for policies in PARTIES if row.call in allowed_by(policies)]

    assert calling
    for policies in calling:
        assert set(row.actions) <= allowed_by(policies)
        without = allowed_by(policies).difference(row.actions)
        assert {(row.call, action) for action in row.actions} <= lacking(without | {row.call}, IMPLIED)
    assert f"| `{row.call}` | {', '.join(f'`{action}`' for action in row.actions)} |" in README
    rest = tuple(other for other in IMPLIED if other is not row)
    assert table_of(README) == documented_rows(IMPLIED) != documented_rows(rest)


def test_no_policy_lacks_an_implied_action() -> None:
    assert [lacking(allowed_by(policies), IMPLIED) for policies in PARTIES] == [set()] * len(PARTIES)


def test_an_implied_action_is_one_of_a_call_that_is_made() -> None:
    assert {row.call for row in IMPLIED} <= calls_in_the_sources()
    assert all(row.source.startswith("https://") and row.gist for row in IMPLIED)


def test_the_policy_of_the_webhooks_options_allows_their_calls() -> None:
    assert allowed("webhook-options") == OF_THE_WEBHOOKS_OPTIONS | OF_SHIFTING
    assert calls_in_the_sources() >= OF_THE_WEBHOOKS_OPTIONS


def test_no_policy_allows_to_write_everywhere() -> None:
    # These know no resource: https://docs.aws.amazon.com/service-authorization/latest/reference/
    without_resource = {"ecs:DeregisterTaskDefinition"}
    for name in ("deployer", "deployer-options", "boundary", "webhook", "webhook-task"):
        for statement in policy(name):
            writes = {action for action in statement["Action"] if not action.partition(":")[2].startswith(READS)}
            assert statement["Resource"] != "*" or "Condition" in statement or writes <= without_resource, statement
        assert not [action for action in allowed(name) if "*" in action]


def test_the_webhook_has_fewer_permissions_than_the_deployer() -> None:
    assert allowed("webhook") < allowed("deployer")
    assert not [action for action in allowed("webhook") if ":Delete" in action or ":Create" in action]


@pytest.mark.parametrize(
    "name",
    ["deployer", "deployer-options", "boundary", "webhook", "webhook-task", "execution", "infrastructure", "task"],
)
def test_a_policy_is_not_longer_than_iam_takes(name: str) -> None:
    text = (ROOT / f"docs/iam/{name}.json").read_text()

    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html: 6,144 without white space
    assert len("".join(text.split())) <= 6144


def test_the_execution_policy_is_the_one_of_new_endpoints() -> None:
    endpoint = EndpointSpec("ENDPOINT", Network("vpc", ()), region="REGION", account="ACCOUNT")

    assert policy("execution") == execution_policy(endpoint)["Statement"]
    assert json.loads((ROOT / "docs/iam/execution-trust.json").read_text()) == task_trust("ACCOUNT")


def test_the_infrastructure_policy_is_the_one_that_ecs_shifts_traffic_with() -> None:
    endpoint = EndpointSpec("ENDPOINT", Network("vpc", ()), region="REGION", account="ACCOUNT")

    assert policy("infrastructure") == infrastructure_policy(endpoint)["Statement"]
    assert json.loads((ROOT / "docs/iam/infrastructure-trust.json").read_text()) == infrastructure_trust("ACCOUNT")


def test_the_policy_of_a_deployed_webhook_service_is_the_one_of_its_role() -> None:
    endpoint = EndpointSpec("ENDPOINT", Network("vpc", ()), region="REGION", account="ACCOUNT")

    assert policy("webhook-task") == webhook_policy(endpoint, artifact_buckets=("ARTIFACT-BUCKET",))["Statement"]
    assert allowed("webhook") < allowed("webhook-task") < of_the_deployer()


def test_a_deployer_writes_roles_only_within_the_boundary() -> None:
    writes = {"iam:CreateRole", "iam:PutRolePolicy", "iam:DeleteRolePolicy"}
    (statement,) = (one for one in policy("deployer") if writes & set(one["Action"]))
    name = "arn:aws:iam::ACCOUNT:policy/mlflow-fargate-boundary"

    assert writes == set(statement["Action"])
    assert statement["Condition"] == {"StringEquals": {"iam:PermissionsBoundary": name}}
    assert {action for action in allowed("boundary") if action.startswith("iam:") and "Get" not in action} == {
        "iam:PassRole"
    }


def test_the_boundary_allows_every_action_of_the_roles_within_it() -> None:
    roles = allowed("webhook-task") | allowed("execution") | allowed("infrastructure")

    assert allowed("boundary") == roles | {"kms:Decrypt", "ssm:GetParameters"}  # of secrets.NAME=


@pytest.mark.parametrize("name", ["deployer", "boundary", "webhook", "webhook-task"])
def test_a_policy_is_printed_for_one_account(name: str) -> None:
    arguments = ["iam", name, "--account", "123456789012", "--region", "us-east-2", "--endpoint", "prod"]
    done = CliRunner().invoke(main, [*arguments, "--artifacts", "models"])

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["Version"] == "2012-10-17"
    assert not re.search(r"ACCOUNT|REGION|ENDPOINT|BUCKET|:\*:123456789012:", done.stdout)
    assert ":s3:::" not in CliRunner().invoke(main, arguments).stdout


def test_a_policy_for_one_region_needs_the_region() -> None:
    done = CliRunner().invoke(main, ["iam", "webhook", "--account", "123456789012"])

    assert done.exit_code == 2 and "set --region" in done.output


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--account", "1234-5678-9012", "12 digits, without dashes"),
        ("--account", '1"}', "12 digits"),
        ("--region", 'us-east-1"', "such as us-east-1"),
        ("--endpoint", '*"', "not a valid endpoint name"),
        ("--artifacts", 'a","*', "a bucket's name"),
        ("--artifacts", "*", "a bucket's name"),
    ],
)
def test_no_value_changes_more_of_a_policy_than_its_place(option: str, value: str, said: str) -> None:
    arguments = {"--account": "123456789012", "--region": "us-east-2", option: value}
    done = CliRunner().invoke(main, ["iam", "webhook", *(part for pair in arguments.items() for part in pair)])

    assert done.exit_code and said in done.output and "Statement" not in done.output


@pytest.mark.slow
def test_the_calls_really_made_are_allowed(deployer: Deployer) -> None:
    def whole_life(counted: Deployer) -> None:
        counted.create_endpoint("default", parse_config({}))
        repository = counted.account.endpoint("default").repository
        repository.newest_image()
        counted.account.registry_login()
        create(counted, auth="api_key")
        counted.update("churn", None, None, NamedOptions({"desired_count": 2, "deregistration_delay_seconds": 1}))
        counted.update("churn", None, None, NamedOptions({"max_count": 3, "schedule.night": "cron(0 20 * * ? *) 0"}))
        counted.update("churn", None, None, NamedOptions({"target_memory_percent": 70, "schedule": "", "max_count": 4}))
        with pytest.raises(RolloutFailed):
            counted.update("churn", CRASHING, None, NamedOptions({"environment.MODE": "crash"}))
        counted.update(
            "churn", None, None, NamedOptions({"strategy": "blue_green", "test_green": False, "bake_time_minutes": 0})
        )
        counted.update("churn", None, None, NamedOptions({"subnets": subnets_of(counted), "wait": False}))
        counted.account.read_api_key(counted.get("churn").api_key_secret or "")
        keys.rotate(counted, "churn")
        keys.finish(counted, "churn")
        operations.tasks(counted, "churn")
        operations.events(counted, "churn")
        list(read_logs(counted, "churn", 0))
        operations.history(counted, "churn")
        list(counted.list())
        counted.delete("churn")

    made = record(deployer, whole_life)

    assert len(made) > 50
    assert sorted(made - of_the_deployer()) == []


@pytest.mark.slow
def test_the_webhook_has_the_permissions_of_a_redeploy_and_no_more(deployer: Deployer) -> None:
    deployer.create_endpoint("default", parse_config({}))
    secret = deployer.account.session.call("secretsmanager", "create_secret", Name="shared", SecretString="token")[
        "ARN"
    ]
    options = {"host": "churn.example.com", "secrets.TOKEN": secret, "subnets": subnets_of(deployer)}
    create(deployer, auth="api_key", max_count=2, **options)
    forget_lifecycle_policy(deployer)

    def redeploy(counted: Deployer) -> None:
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

    forget_lifecycle_policy(deployer)

    def follow(counted: Deployer) -> None:
        counted.account.endpoint("default").repository.ensure()
        create(counted, "fraud", auth="api_key", wait=False, subnets=subnets_of(counted))
        counted.delete("fraud")

    made = record(deployer, follow)

    assert sorted(made - allowed("webhook-task")) == []
    assert {"ecs:CreateService", "ecs:DeleteService", "secretsmanager:CreateSecret"} <= made

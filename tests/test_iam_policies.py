"""docs/iam: what the policies allow is what the code calls, no less and no more.

Which calls there are is read from the sources (every one goes through `AwsSession`). What they need besides their own
action comes from AWS's documents (support/implied_actions.py); test_iam_calls.py compares the calls that are made.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_fargate.aws.resource_types.iam import infrastructure_trust, task_trust
from mlflow_fargate.cli import main
from mlflow_fargate.resources import EndpointSpec, Network, execution_policy, infrastructure_policy, webhook_policy
from support.aws_actions import OF_S3, OF_THE_REGISTRY, OF_THE_WEBHOOKS_OPTIONS, TAGGING, calls_in_the_sources
from support.iam_policies import allowed, policy
from support.implied_actions import IMPLIED, Implied, with_implied

ROOT = Path(__file__).parents[1]
# For strategies that shift traffic: ECS continues once the new tasks have passed a test, with the API key.
OF_SHIFTING = {
    "ecs:ContinueServiceDeployment",
    "ecs:DescribeServiceDeployments",
    "iam:PassRole",
    "secretsmanager:GetSecretValue",
}
OF_ALARMS = {"cloudwatch:ListTagsForResource"}
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
    look = {"cloudwatch:DescribeAlarms"}
    assert allowed("webhook-options") == OF_THE_WEBHOOKS_OPTIONS | OF_SHIFTING | OF_ALARMS | look
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
        "iam:PassRole",
        *("iam:DeleteRole", "iam:DeleteRolePolicy", "iam:ListRolePolicies"),  # of records
    }


def test_the_boundary_allows_every_action_of_the_roles_within_it() -> None:
    roles = allowed("webhook-task") | allowed("execution") | allowed("infrastructure")

    assert allowed("boundary") == roles | {"kms:Decrypt", "ssm:GetParameters"} | {
        "s3:PutObject"
    }  # of secrets.NAME= and inference_log=


@pytest.mark.parametrize("name", ["deployer", "boundary", "webhook", "webhook-task"])
def test_a_policy_is_printed_for_one_account(name: str) -> None:
    arguments = ["iam", name, "--account", "123456789012", "--region", "us-east-2", "--endpoint", "prod"]
    done = CliRunner().invoke(main, [*arguments, "--artifacts", "models"])

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["Version"] == "2012-10-17"
    assert not re.search(r"ACCOUNT|REGION|ENDPOINT|BUCKET|:\*:123456789012:", done.stdout)
    assert ("s3:::logs/" in CliRunner().invoke(main, [*arguments, "--inference-log", "logs"]).stdout) == (
        name == "boundary"
    )
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

"""`mlflow-fargate tracking env`: a stack's outputs as variables for a shell, and what `create` makes of them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlflow_fargate.aws.account import Account
from mlflow_fargate.cli import main
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.target import NETWORK_VARIABLES, parse_target
from support.deployer import TARGET, create, use_account

OUTPUTS = {
    "TrackingUri": "http://10.20.0.5:5000",
    "ArtifactBucket": "models",
    "VpcId": "vpc-0a1b2c3d",
    "SubnetIds": "subnet-a,subnet-b",
    "TaskSecurityGroupId": "sg-0a1b2c3d",
    "AdminSecretArn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:admin-a1b2c3",
}
Answer = tuple[str, dict[str, str]] | None


@pytest.fixture
def print_env(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the command where AWS shows a stack in this state."""

    def run(found: Answer, *arguments: str) -> Any:
        monkeypatch.setattr(Account, "stack", lambda *_: found and (found[0], dict(found[1])))
        return CliRunner().invoke(main, ["tracking", "env", "mlflow", "-t", "fargate:/us-east-1", *arguments])

    return run


def evaluated(lines: str, folder: Path) -> dict[str, str]:
    """Returns the variables after a POSIX shell has evaluated the lines, where `aws` prints a secret."""
    aws = folder / "aws"
    aws.write_text('#!/bin/sh\necho \'{"username": "admin","password":"a1-$B \\\\"q"}\'\n')
    aws.chmod(0o755)
    command = ["sh", "-c", 'eval "$1"; env -0', "sh", lines]
    done = subprocess.run(command, env={"PATH": f"{folder}:{os.environ['PATH']}"}, capture_output=True, check=True)
    pairs = [one.partition("=") for one in done.stdout.decode().split("\0") if one]
    return {name: value for name, _, value in pairs if name.startswith(("MLFLOW", "FARGATE"))}


def test_a_shell_evaluates_the_lines_and_reads_the_password_itself(
    print_env: Callable[..., Any], tmp_path: Path
) -> None:
    done = print_env(("UPDATE_COMPLETE", OUTPUTS))

    assert done.exit_code == 0 and "$B" not in done.output
    assert evaluated(done.stdout, tmp_path) == {
        "MLFLOW_TRACKING_URI": "http://10.20.0.5:5000",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": 'a1-$B "q',
        "FARGATE_ARTIFACT_BUCKET": "models",
        "FARGATE_VPC": "vpc-0a1b2c3d",
        "FARGATE_SUBNETS": "subnet-a,subnet-b",
        "FARGATE_SECURITY_GROUPS": "sg-0a1b2c3d",
    }


def test_outputs_of_a_hostile_stack_run_nothing(print_env: Callable[..., Any], tmp_path: Path) -> None:
    touch = f"'; touch {tmp_path}/owned; $(touch {tmp_path}/owned) `touch {tmp_path}/owned`\n\" #"
    done = print_env(("CREATE_COMPLETE", dict.fromkeys(OUTPUTS, touch)))

    assert evaluated(done.stdout, tmp_path)["FARGATE_VPC"] == touch
    assert not (tmp_path / "owned").exists()


def test_the_tunnel_and_another_user_change_address_and_secret(print_env: Callable[..., Any]) -> None:
    secret = OUTPUTS["AdminSecretArn"].replace("admin", "ci")
    done = print_env(("CREATE_COMPLETE", {**OUTPUTS, "CiSecretArn": secret}), "--tunnel", "--user", "ci")

    assert "export MLFLOW_TRACKING_URI=http://localhost:5000\n" in done.stdout
    assert secret in done.stdout and OUTPUTS["AdminSecretArn"] not in done.stdout


def test_a_stack_without_a_login_says_so_where_no_shell_evaluates_it(print_env: Callable[..., Any]) -> None:
    done = print_env(("CREATE_COMPLETE", {name: OUTPUTS[name] for name in OUTPUTS if name != "AdminSecretArn"}))

    assert done.stderr.startswith("The stack has no output AdminSecretArn;")
    assert all(line.startswith("export ") for line in done.stdout.splitlines())


@pytest.mark.parametrize("status", ["UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_FAILED", "UPDATE_FAILED"])
def test_the_outputs_of_a_stack_that_changes_are_printed_with_a_warning(
    status: str, print_env: Callable[..., Any]
) -> None:
    done = print_env((status, OUTPUTS))

    assert (done.exit_code, done.stderr) == (0, f"Stack 'mlflow' is in {status}: the server may not respond.\n")
    assert done.stdout == print_env(("UPDATE_COMPLETE", OUTPUTS)).stdout


def test_a_name_in_the_secrets_output_that_looks_like_an_option_is_none(
    print_env: Callable[..., Any], tmp_path: Path
) -> None:
    done = print_env(("CREATE_COMPLETE", {**OUTPUTS, "AdminSecretArn": "--endpoint-url=http://evil"}))
    aws = tmp_path / "aws"
    aws.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >&2\n')
    aws.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    shown = subprocess.run(["sh", "-c", done.stdout], env=environment, capture_output=True, text=True, check=False)

    assert "--secret-id=--endpoint-url=http://evil" in shown.stderr.splitlines()
    assert "--endpoint-url=http://evil" not in shown.stderr.splitlines()


@pytest.mark.parametrize(
    ("found", "said", "hint"),
    [
        (None, "There is no stack 'mlflow' in us-east-1.", "check the name and the region"),
        (("ROLLBACK_COMPLETE", {}), "is in ROLLBACK_COMPLETE, so it has no usable server", "describe-stack-events"),
        (("ROLLBACK_FAILED", OUTPUTS), "is in ROLLBACK_FAILED", "delete the stack and create it again"),
        (("DELETE_FAILED", OUTPUTS), "is in DELETE_FAILED", "look for the cause"),
        (("DELETE_IN_PROGRESS", OUTPUTS), "is in DELETE_IN_PROGRESS", "create it again"),
        (("CREATE_IN_PROGRESS", {}), "it is not created yet", "aws cloudformation wait stack-create-complete"),
        (("REVIEW_IN_PROGRESS", {}), "it is not created yet", "execute its change set"),
        (("CREATE_COMPLETE", {"VpcId": "vpc-1"}), "has no output TrackingUri, ArtifactBucket, SubnetIds", "update it"),
    ],
)
def test_a_stack_that_cannot_be_used_is_explained(
    found: Answer, said: str, hint: str, print_env: Callable[..., Any]
) -> None:
    done = print_env(found)

    assert done.exit_code == 1 and done.stdout == ""
    assert said in done.stderr and hint in done.stderr.partition("hint: ")[2]


@pytest.fixture
def stack_of(deployer: Deployer) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Creates the stack `mlflow` with these outputs, on the AWS of the tests."""
    session = deployer.account.session
    made: list[str] = []

    def create_stack(outputs: dict[str, Any]) -> None:
        group = {"Type": "AWS::Logs::LogGroup"}
        body = {"Resources": {"Group": group}, "Outputs": {name: {"Value": outputs[name]} for name in outputs}}
        session.call("cloudformation", "create_stack", StackName="mlflow", TemplateBody=json.dumps(body))
        made.append("mlflow")

    yield create_stack
    for name in made:
        session.call("cloudformation", "delete_stack", StackName=name)


@pytest.mark.slow
def test_a_new_deployment_uses_the_network_that_the_variables_name(
    deployer: Deployer, stack_of: Callable[[dict[str, Any]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_account(monkeypatch, deployer)
    call = deployer.account.session.call
    subnets = call("ec2", "describe_subnets")["Subnets"][:2]
    vpc, ids = subnets[0]["VpcId"], ",".join(one["SubnetId"] for one in subnets)
    group = call("ec2", "create_security_group", GroupName="tracking", Description="x", VpcId=vpc)["GroupId"]
    assert deployer.account.stack("mlflow") is None
    stack_of({**OUTPUTS, "VpcId": vpc, "SubnetIds": ids, "TaskSecurityGroupId": group})

    done = CliRunner().invoke(main, ["tracking", "env", "mlflow", "-t", TARGET], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    lines = (line.removeprefix("export ").partition("=") for line in done.stdout.splitlines())
    variables = {name: shlex.split(value)[0] for name, _, value in lines if name in NETWORK_VARIABLES}
    network = parse_target(TARGET, variables).environment.network
    environment = replace(deployer.target.environment, network=network)
    new = replace(deployer, target=replace(deployer.target, environment=environment))

    create(new, wait=False)
    create(new, "other", wait=False, security_groups="")

    def network_of(name: str) -> dict[str, Any]:
        found = call("ecs", "describe_services", cluster="mlflow-fargate-default", services=[name])
        return dict(found["services"][0]["networkConfiguration"]["awsvpcConfiguration"])

    assert sorted(network_of("churn")["subnets"]) == sorted(ids.split(","))
    assert group in network_of("churn")["securityGroups"]
    assert group not in network_of("other")["securityGroups"]
    assert new.get("churn").settings.vpc == vpc

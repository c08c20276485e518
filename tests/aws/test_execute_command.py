"""Commands in a task: the calls to AWS, the errors, and a command in a task of the local stack."""

from __future__ import annotations

import hmac
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from mlflow_fargate.aws.account import Account
from mlflow_fargate.cli import main
from mlflow_fargate.config import NamedOptions, parse_config
from mlflow_fargate.deployments import operations
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import InvalidOption, ToolMissing
from mlflow_fargate.local.api.exec_sessions import PLUGIN
from support.deployer import create

SECRET = "local"  # the secret key of `plugged_in`
ROLE = "arn:aws:iam::123456789012:role/churn"
ON = {"enable_execute_command": True, "task_role_arn": ROLE}


@pytest.fixture(scope="module")
def able(plugged_in: Deployer) -> Iterator[Deployer]:
    """With a deployment in whose task commands run."""
    create(plugged_in, **ON, **{"environment.MODE": "gentle"})
    yield plugged_in
    plugged_in.delete("churn")


def with_plugin(deployer: Deployer, *plugin: str) -> Deployer:
    environment = replace(deployer.target.environment, session_manager_plugin=plugin)
    return replace(deployer, target=replace(deployer.target, environment=environment))


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The local stack's, with a state file as the stack writes it."""
    state = tmp_path_factory.mktemp("state") / "stack.json"
    state.write_text(json.dumps({"secret_access_key": SECRET}))
    return (sys.executable, "-I", "-S", str(PLUGIN), str(state))


def run(deployer: Deployer, plugin: tuple[str, ...], command: str) -> str:
    follow = operations.open_command(with_plugin(deployer, *plugin), "churn", command)
    done = subprocess.run(follow, capture_output=True, text=True, check=True, timeout=60, stdin=subprocess.DEVNULL)
    return done.stdout


def test_commands_want_a_task_role() -> None:
    with pytest.raises(InvalidOption, match="requires task_role_arn"):
        parse_config({"enable_execute_command": "true"})


@pytest.mark.slow
def test_a_command_runs_in_the_surroundings_of_the_task(able: Deployer, plugin: tuple[str, ...]) -> None:
    assert run(able, plugin, "sh -c 'echo $MODE; cat /opt/app/src/server.py'").startswith("gentle\n")
    assert "class" in run(able, plugin, "cat /opt/app/src/server.py")


@pytest.mark.slow
def test_a_session_is_followed_once_and_by_its_signed_token_alone(able: Deployer) -> None:
    follow = operations.open_command(with_plugin(able, "true"), "churn", "ls")
    session = json.loads(follow[1])

    def answer(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return requests.get(session["streamUrl"], headers=headers, timeout=10).status_code

    signed = hmac.new(SECRET.encode(), session["tokenValue"].encode(), "sha256").hexdigest()
    assert answer("guessed") == 403
    assert answer(session["tokenValue"]) == 403  # every user of the machine sees it among the plugin's arguments
    assert answer(signed) == 200
    assert answer(signed) == 403


@pytest.mark.slow
def test_the_plugin_gets_the_same_arguments_as_from_the_aws_cli(able: Deployer) -> None:
    plugin, session, region, operation, profile, request, address = operations.open_command(
        with_plugin(able, "true"), "churn", "ls"
    )

    task = able.endpoint.runnable_task("churn", None)
    assert (plugin, region, operation, profile) == ("true", "us-east-1", "StartSession", "")
    assert set(json.loads(session)) == {"sessionId", "streamUrl", "tokenValue"}
    assert json.loads(request) == {"Target": f"ecs:mlflow-fargate-default_{task.id}_{task.runtime_id}"}
    assert address == able.target.environment.aws_endpoint_url


@pytest.mark.slow
def test_without_the_plugin_no_session_is_opened_and_the_error_says_how_to_install_it(able: Deployer) -> None:
    account = Account(able.target)
    asked: list[str] = []
    account.session._session.events.register("before-call.*", lambda model, **_: asked.append(model.name))
    without = replace(with_plugin(able, "no-such-plugin"), account=account)

    with pytest.raises(ToolMissing) as caught:
        operations.open_command(without, "churn", "ls '/a b'")

    assert "install-plugin.html" in str(caught.value)
    assert "aws ecs execute-command --region us-east-1 --cluster mlflow-fargate-default --task" in str(caught.value)
    assert "ExecuteCommand" not in asked


def test_the_command_line_hands_on_the_command_as_it_was_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def open_command(deployer: object, name: str, command: str, task: str | None) -> list[str]:
        seen.append((name, command, task))
        return ["true"]

    monkeypatch.setattr("mlflow_fargate.deployments.operations.open_command", open_command)
    monkeypatch.setattr("mlflow_fargate.cli.deployment.exec.deployer_at", lambda target: None)
    for arguments in (["--", "ls", "-l", "/a b"], ["--task", "0123"]):
        assert CliRunner().invoke(main, ["exec", "--name", "churn", *arguments]).exit_code == 0

    assert seen == [("churn", "ls -l '/a b'", None), ("churn", "/bin/sh", "0123")]


@pytest.mark.slow
def test_a_task_in_which_commands_run_says_so_and_can_write_to_its_root(able: Deployer) -> None:
    session = able.account.session
    definition = session.call("ecs", "describe_task_definition", taskDefinition=able.get("churn").task_definition)[
        "taskDefinition"
    ]
    container = definition["containerDefinitions"][0]
    service = session.call("ecs", "describe_services", cluster="mlflow-fargate-default", services=["churn"])["services"]

    assert service[0]["enableExecuteCommand"] is True
    assert (container["readonlyRootFilesystem"], container["linuxParameters"]) == (False, {"initProcessEnabled": True})


@pytest.mark.slow
def test_a_command_ends_with_its_task(able: Deployer, plugin: tuple[str, ...]) -> None:
    local = with_plugin(able, *plugin)
    with subprocess.Popen(operations.open_command(local, "churn", "sleep 600"), stdin=subprocess.DEVNULL) as follower:
        try:
            time.sleep(1)
            assert follower.poll() is None
            operations.scale(able, "churn", 0)

            assert follower.wait(60) == 0
            with pytest.raises(InvalidOption, match="'churn' has no running task"):
                operations.open_command(local, "churn", "ls")
        finally:
            follower.kill()


@pytest.mark.slow
def test_switched_off_again_the_root_is_read_only_and_nothing_runs(able: Deployer) -> None:
    able.update("churn", None, None, NamedOptions({"enable_execute_command": "", "desired_count": 1}))

    revision = able.get("churn").task_definition
    described = able.account.session.call("ecs", "describe_task_definition", taskDefinition=revision)["taskDefinition"]
    assert described["containerDefinitions"][0]["readonlyRootFilesystem"] is True
    assert described["containerDefinitions"][0]["linuxParameters"] == {"capabilities": {"drop": ["ALL"]}}
    with pytest.raises(InvalidOption, match="ECS Exec is off"):
        operations.open_command(with_plugin(able, "true"), "churn", "ls")

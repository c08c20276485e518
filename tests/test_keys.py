"""Replacing an API key: real rollouts on the local stack's AWS, whose tasks return the keys they accept."""

from __future__ import annotations

import subprocess

import pytest
from click.testing import CliRunner

from mlflow_fargate.cli import main
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployments import keys
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.errors import InvalidOption
from support.deployer import TARGET, answer, create, use_account

pytestmark = pytest.mark.slow


def accepted(deployer: Deployer) -> list[str]:
    """Returns the keys in the environment of the running task."""
    return str(answer(deployer.get("churn").url)["key"]).split()


def sent(deployer: Deployer) -> str:
    return deployer.account.read_api_key(deployer.get("churn").api_key_secret or "")


def test_at_every_step_the_tasks_accept_the_key_that_callers_send(deployer: Deployer) -> None:
    create(deployer, auth="api_key")
    [old] = accepted(deployer)

    keys.rotate(deployer, "churn")
    [first, new] = accepted(deployer)
    assert (first, sent(deployer)) == (old, old)
    assert new != old and len(new) >= 40

    keys.finish(deployer, "churn")
    assert accepted(deployer) == [new]
    assert sent(deployer) == new
    assert new not in str(deployer.progress.lines) and old not in str(deployer.progress.lines)  # type: ignore[attr-defined]


def test_a_step_that_was_interrupted_is_finished_by_repeating_it(deployer: Deployer) -> None:
    create(deployer, auth="api_key")
    [old] = accepted(deployer)
    secret = deployer.get("churn").api_key_secret or ""
    deployer.account.write_api_keys(secret, [old, "n" * 43])  # and then it was killed

    with pytest.raises(InvalidOption, match="Not all tasks of 'churn' accept the new API key yet"):
        keys.finish(deployer, "churn")
    assert accepted(deployer) == [old]
    keys.rotate(deployer, "churn")
    [_, new] = accepted(deployer)
    deployer.account.write_api_keys(secret, [new])  # and then it was killed
    keys.finish(deployer, "churn")

    assert accepted(deployer) == [new]


def test_the_old_key_is_not_removed_during_the_rollout_of_the_new_one(deployer: Deployer) -> None:
    create(deployer, auth="api_key")
    keys.rotate(deployer, "churn", NamedOptions({"wait": False}))

    with pytest.raises(InvalidOption, match="Not all tasks"):
        keys.finish(deployer, "churn")


def test_an_open_deployment_has_no_key_to_replace(deployer: Deployer) -> None:
    create(deployer)

    with pytest.raises(InvalidOption) as caught:
        keys.rotate(deployer, "churn")

    assert "auth=none" in caught.value.message and "-C auth=api_key" in (caught.value.hint or "")
    assert "Authorization" not in keys.usage(deployer, "churn")


def test_the_command_shows_how_to_call_a_deployment_but_not_its_key(
    deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(deployer, auth="api_key")
    use_account(monkeypatch, deployer)

    shown = CliRunner().invoke(main, ["key", "-t", TARGET, "--name", "churn"])
    rotated = CliRunner().invoke(main, ["key", "-t", TARGET, "--name", "churn", "--rotate"])

    assert shown.exit_code == rotated.exit_code == 0, shown.output + rotated.output
    status = deployer.get("churn")
    assert f"--secret-id \\\n  {status.api_key_secret} \\\n" in shown.output
    assert f"{status.url}/invocations" in shown.output and 'predict("churn", rows)' in shown.output
    assert "Two keys are valid" in rotated.output and "Two keys" not in shown.output
    assert not [one for one in accepted(deployer) if one in shown.output + rotated.output]
    for output in (shown.stdout, rotated.stdout):
        curl = output.partition("\n\n")[0]
        assert subprocess.run(["bash", "-n"], input=curl, text=True, capture_output=True, check=False).stderr == ""

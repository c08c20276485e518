"""Tests what applies to every command of `mlflow-fargate`: JSON, colors, completion, exit codes, Ctrl-C."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from mlflow_fargate.aws.account import Account
from mlflow_fargate.aws.ecr import Repository
from mlflow_fargate.aws.endpoint import Endpoint
from mlflow_fargate.cli import main
from mlflow_fargate.cli.deployment.options import print_table
from mlflow_fargate.deployments.deployer import Deployer
from mlflow_fargate.doctor.checks import Finding
from mlflow_fargate.progress import PlainProgress, RecordedProgress, progress_for_stderr
from mlflow_fargate.target import parse_target
from support.deployer import create

ROOT = Path(__file__).parent.parent
READING = (
    "doctor",
    "plan",
    "status",
    "events",
    "logs",
    "history",
    "gc",
    "local status",
    "webhook status",
    "webhook logs",
)


def verb(path: str) -> click.Command:
    command: click.Command = main
    for name in path.split():
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command


@pytest.mark.parametrize("path", READING)
def test_every_reading_command_prints_json(path: str) -> None:
    assert "--json" in {name for parameter in verb(path).params for name in parameter.opts}


def test_the_commands_for_a_first_run_exist() -> None:
    assert {"demo", "local", "webhook"} <= main.commands.keys()


def test_the_demo_shows_what_to_install_if_its_packages_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow_fargate.examples.demo", None)

    done = CliRunner().invoke(main, ["demo"])

    assert done.exit_code == 1
    assert "pip install 'mlflow-fargate[local,webhook,demo]'" in done.stderr


@pytest.mark.parametrize(("no_color", "is_colored"), [("", True), ("1", False)])
def test_no_color_is_honored(no_color: str, is_colored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr("mlflow_fargate.doctor.examination.examine", lambda *_: [Finding("account", "quota", "OK", "")])
    # The package has the command of this name, not the module.
    deployer = Mock(spec=Deployer, account=None, target=parse_target("fargate:/eu-west-1"))
    monkeypatch.setattr(sys.modules["mlflow_fargate.cli.doctor"], "deployer_at", lambda _: deployer)

    done = CliRunner().invoke(main, ["doctor"], color=True)

    assert "OK" in done.output
    assert ("\x1b[" in done.output) == is_colored


def test_without_a_terminal_there_are_no_colors_and_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    progress = progress_for_stderr()

    with progress.transfer("model", 10) as advance:
        advance(10)

    assert isinstance(progress, PlainProgress)
    assert re.fullmatch(r"\[ +\d+\.\d+s\]   model: 10 B in \d+\.\d s\n", stream.getvalue())


RETRY = """
import logging, stamina, mlflow_fargate.progress
{setup}
for attempt in stamina.retry_context(on=OSError, attempts=2, wait_initial=0):
    with attempt:
        if attempt.num == 1:
            raise OSError("the connection broke")
"""


@pytest.mark.parametrize(("setup", "is_logged"), [("", False), ("logging.basicConfig()", True)])
def test_a_retry_is_logged_only_if_logging_is_configured(setup: str, is_logged: bool) -> None:
    command = [sys.executable, "-W", "ignore", "-c", RETRY.format(setup=setup)]

    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr

    assert ("stamina.retry_scheduled" in said) == is_logged
    assert is_logged or said == ""


PROGRESS = """
import logging
from mlflow_fargate.progress import progress_for_stderr
logging.getLogger().setLevel(logging.INFO)
{setup}
progress_for_stderr().step("push")
"""


@pytest.mark.parametrize(
    ("setup", "expected"), [("", r"\[ +0\.0s\] push"), ("logging.basicConfig()", "INFO:mlflow_fargate.progress:push")]
)
def test_progress_is_logged_only_if_logging_is_configured_at_any_library_level(setup: str, expected: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", PROGRESS.format(setup=setup)]

    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr

    assert re.fullmatch(expected, said.strip())


def test_long_transfers_report_their_progress_without_a_bar() -> None:
    stream, now = io.StringIO(), 0.0
    progress = PlainProgress(stream, clock=lambda: now)

    with progress.transfer("model files", 300 * 10**6) as advance:
        for _ in range(30):
            now += 1
            advance(10 * 10**6)

    assert [line.partition("]")[2].strip() for line in stream.getvalue().splitlines()] == [
        "model files: 100.0 MB of 300.0 MB",
        "model files: 200.0 MB of 300.0 MB",
        "model files: 300.0 MB in 30.0 s",
    ]


def test_the_shell_completes_commands_and_options() -> None:
    shell = BashComplete(main, {}, "mlflow-fargate", "_MLFLOW_FARGATE_COMPLETE")

    assert "_mlflow_fargate_completion" in shell.source()
    assert [found.value for found in shell.get_completions([], "rol")] == ["rollback"]
    assert "--no-wait" in [found.value for found in shell.get_completions(["rollback"], "--no")]


def test_exit_codes_of_a_usage_error_match_the_documentation() -> None:
    page = (ROOT / "docs" / "operating.md").read_text("utf-8").partition("## Exit codes")[2].partition("\n## ")[0]

    assert re.findall(r"^\| (\d) \|", page, re.MULTILINE) == ["0", "1", "2", "3", "4"]
    assert CliRunner().invoke(main, ["status", "--nmae", "churn"]).exit_code == 2
    assert CliRunner().invoke(main, ["plan", "--nmae", "churn"]).exit_code == 1
    assert CliRunner().invoke(main, ["--version"]).exit_code == 0


def cut_off(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_during_the_image_build_reports_that_nothing_was_deployed(
    deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(deployer.publisher), "publish", cut_off)

    assert "nothing was deployed or changed" in interrupted(deployer, create)
    assert list(deployer.list()) == []


def test_ctrl_c_while_the_plan_is_applied_shows_how_to_finish_it(
    deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Account, "apply", cut_off)
        said = interrupted(deployer, create)

    assert "Run the same command to finish" in said
    assert f"mlflow deployments delete -t '{deployer.target.uri}' --name churn" in said
    create(deployer)
    assert deployer.get("churn").state == "COMPLETED"


def test_ctrl_c_while_a_rollout_is_watched_shows_how_to_follow_it(
    deployer: Deployer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Endpoint, "wait_until_rolled_out", cut_off)

    assert f"mlflow-fargate status -f -t '{deployer.target.uri}' --name churn" in interrupted(deployer, create)


def test_ctrl_c_while_deleting_reports_what_is_left(deployer: Deployer, monkeypatch: pytest.MonkeyPatch) -> None:
    create(deployer)
    with monkeypatch.context() as patch:
        patch.setattr(Repository, "delete_images", cut_off)

        assert "Run the same command to delete the rest" in interrupted(deployer, lambda one: one.delete("churn"))


def interrupted(deployer: Deployer, act: Callable[[Deployer], object]) -> str:
    """Returns the progress lines after Ctrl-C interrupted `act`."""
    with pytest.raises(KeyboardInterrupt):
        act(deployer)
    assert isinstance(deployer.progress, RecordedProgress)
    return "\n".join(deployer.progress.lines)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_table_on_a_terminal_of_80_columns_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal):
        print_table(("TASK", "STATE", "REVISION", "STARTED"), [("9b" * 16, "RUNNING", 1234, "2026-11-24 21:00")])
        print_table(("REVISION", "STATE", "MODEL"), [("3*", "COMPLETED", "models:/churn/" + "x" * 99)])

    shown = click.unstyle(terminal.getvalue())
    assert max(map(len, shown.splitlines())) <= 80
    assert "9b" * 16 in shown and shown.count("x") == 99

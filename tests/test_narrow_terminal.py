"""On a terminal of 80 columns, no line is longer, except URLs, ARNs and IDs on lines of their own."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from mlflow_fargate.cli import main
from mlflow_fargate.cli.deployment import options
from mlflow_fargate.config import NamedOptions
from mlflow_fargate.deployments.deployer import Deployer
from support.deployer import TARGET, create

WIDTH = 80


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in command.commands.items() if isinstance(command, click.Group) else ():
        yield from commands(inner, (*path, name))


def too_long(output: str) -> list[str]:
    """The lines that are too long; not those of one word, also if quoted in a command that goes on in the next line."""
    lines = click.unstyle(output).splitlines()
    return [line for line in lines if len(line) > WIDTH and len(line.removesuffix("\\").split()) > 1]


@pytest.mark.parametrize("path", commands(main), ids=" ".join)
def test_the_help_of_every_command_fits_80_columns(path: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(main, [*path, "--help"], env={"COLUMNS": str(WIDTH)})

    assert shown.exit_code == 0
    assert too_long(shown.output) == []


@pytest.mark.parametrize(
    "path", [path for path in commands(main) if {*path} & {"scale", "rollback", "key", "export", "up", "deploy", "gc"}]
)
def test_commands_that_report_progress_can_be_quiet(path: tuple[str, ...]) -> None:
    assert "--quiet" in CliRunner().invoke(main, [*path, "--help"]).output


@pytest.mark.slow
def test_the_output_of_commands_fits_80_columns(plugged_in: Deployer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "output_width", lambda: WIDTH)
    name = "churn-with-a-name-that-is-longer-than-most"
    create(plugged_in, name, uri="models:/churn/1", auth="api_key")
    plugged_in.update(name, "models:/churn/2", None, NamedOptions({"environment.VERSION": "2"}))
    of_one = ("status", "history", "events", "logs", "key", "plan -C desired_count=2 -C strategy=canary")

    long = {}
    for command in (*(f"{verb} --name {name}" for verb in of_one), "list", "gc", "doctor", f"scale --name {name} -q 0"):
        shown = CliRunner().invoke(main, [*command.split(), "-t", TARGET], env={"COLUMNS": str(WIDTH)})
        assert shown.stdout, (command, shown.output)
        long[command] = too_long(shown.stdout)
        if " -q " in command:
            assert shown.stderr == ""
    plugged_in.delete(name)

    assert {command: lines for command, lines in long.items() if lines} == {}


@pytest.mark.slow
def test_a_quiet_environment_leaves_only_warnings(plugged_in: Deployer) -> None:
    create(plugged_in, uri="models:/churn/Production", desired_count=0)
    options_ = ["-t", TARGET, "--name", "churn"]

    loud = CliRunner().invoke(main, ["plan", *options_, "-C", "desired_count=1"])
    quiet = CliRunner().invoke(main, ["scale", *options_, "0"], env={"MLFLOW_FARGATE_QUIET": "1"})
    plugged_in.delete("churn")

    assert "desired_count: 0 → 1" in loud.stdout
    assert (quiet.exit_code, quiet.stderr, quiet.stdout) == (0, "", "churn: 0 of 0 tasks running\n")

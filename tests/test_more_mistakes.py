"""More mistakes of the first hour: docs/troubleshooting.md is the table, and each of its commands is run here.

A command of mlflow-fargate or MLflow runs in this process, with moto as AWS and a registry that has version 1 of
`churn`; `create` is run as `plan`, which makes the same checks. Other lines prepare files, in a shell.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.deployments.cli import commands as deployments
from test_first_hour import PAGE, Bench, bench, model_registry

from mlflow_fargate.cli import main
from support.tracking_uri import use_tracking_uri

__all__ = ["bench", "model_registry"]

BLOCKS = dict(
    re.findall(r"^### ([^\n]*)\n\n```shell-session\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
)


@pytest.mark.parametrize("heading", BLOCKS)
def test_the_mistakes_print_their_output_on_the_page(
    heading: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.model()
    mlflow.set_tracking_uri(bench.registry)
    said = ""
    for line in re.findall(r"^\$ (.*)", BLOCKS[heading], re.MULTILINE):
        said += f"$ {line}\n"
        if line == "unset MLFLOW_TRACKING_URI":
            mlflow.set_tracking_uri(None)
            monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        elif re.match(r"(MLFLOW_TRACKING_URI=\S* )?mlflow", line):
            said += printed(line, bench)
        else:
            subprocess.run(line, shell=True, check=True)

    assert said == BLOCKS[heading]


def test_the_page_has_sixty_mistakes_with_their_next_step() -> None:
    outputs = re.findall(r"((?:^\$ .*\n)+)((?:(?!\$ ).*\n)*)", "".join(BLOCKS.values()), re.MULTILINE)
    next_step = r"hint: |[Dd]id you mean|such as|must be|is greater than|use one of|Try "
    sections = len(re.findall("^## ", PAGE.read_text("utf-8"), re.MULTILINE)) - 1

    assert [commands for commands, said in outputs if not re.search(next_step, said)] == []
    assert len(outputs) + sections >= 60


def printed(command: str, bench: Bench) -> str:
    """Returns what the command prints, with the paths of the page; its exit code is not 0."""
    if setting := re.match(r"MLFLOW_TRACKING_URI=(\S*) ", command):
        with use_tracking_uri(setting[1]):
            return printed(command[setting.end() :], bench)
    program, *arguments = shlex.split(command)
    if arguments[:2] == ["deployments", "create"]:
        group, arguments = main, ["plan", *arguments[2:]]
    else:
        group, arguments = (main, arguments) if program == "mlflow-fargate" else (deployments, arguments[1:])
    done = CliRunner().invoke(group, arguments, prog_name=program)
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    text = re.sub(r"(?m)^\d{4}/.* INFO mlflow.*\n", "", done.output)  # creating the registry's tables
    text = text.replace(bench.registry, "sqlite:///mlflow.db").replace(str(bench.folder), "/home/ana")
    return text.replace(str(Path(bench.registry.removeprefix("sqlite:///")).parent), "/home/ana")

"""Checks commands in docs and CI files against the programs without running them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
from mlflow.cli import cli as mlflow_cli

from mlflow_fargate.cli import main
from mlflow_fargate.config import DeploymentConfig

ROOT = Path(__file__).parents[2]


def check_command(command: str) -> None:
    """Fails if a subcommand, an option or a make target does not exist; required options can be omitted."""
    program, *words = shlex.split(command)
    if program == "make":
        goals = {word for word in words if "=" not in word}
        assert goals <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    else:
        _check_words(main if program == "mlflow-fargate" else mlflow_cli, words)


def _check_words(group: click.Command, words: list[str]) -> None:
    command = group
    context = click.Context(command)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, f"there is no subcommand '{name}'"
        command, context = found, click.Context(found, parent=context, info_name=name)
    placeholders = [word.strip("[]") for word in words if word not in ("[", "]")]
    given, _, _ = command.make_parser(context).parse_args(placeholders)
    known = {field.alias or name for name, field in DeploymentConfig.model_fields.items()} | {"config_file"}
    if command.name == "delete":
        known = {"retain"}
    asked = given.get("config") or ()
    for pair in asked if isinstance(asked, (list, tuple)) else (asked,):
        assert pair.partition("=")[0].partition(".")[0] in known | {"KEY"}, pair

"""Runs the commands of the README and the operations page as written, with the local stack as their target."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.deployments import get_deploy_client

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Installing is tested by test_distribution.py; the others are this test run itself.
ELSEWHERE = (
    "python3 -m venv",
    "pip install",
    "make demo",
    "make test",
    "mlflow-fargate webhook serve",
    "mlflow-fargate local down",
)


def commands_under(title: str) -> list[str]:
    """Returns the commands in the blocks under a heading."""
    text = README.partition(f"## {title}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    assert blocks, text
    return [line for block in blocks for line in block.splitlines()]


def first_block(text: str) -> list[str]:
    block = re.search(r"```bash\n(.*?)```", text, re.DOTALL)
    assert block, text
    return block[1].splitlines()


def run(command: str, folder: Path, exit_code: int = 0) -> str:
    """Runs a command in a shell, checks its exit code, and returns its output."""
    command = command.replace("fargate:/us-east-2", "fargate:/local")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == exit_code, (command, done.stdout, done.stderr)
    return done.stdout


def test_every_command_for_users_works_as_described(churn: str, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([{"x": 1.5}, {"x": 2.0}]))
    printed = {}
    for command in commands_under("Deploy, query, update, delete"):
        if not command.startswith(ELSEWHERE):
            printed[command.split()[2]] = run(command, tmp_path)

    assert "deployment churn is created" in printed["create"]
    assert json.loads(printed["predict"]) == {"predictions": [{"x": 3.0}, {"x": 4.0}]}
    assert "Deployment churn is updated" in printed["update"]
    assert "model_version: 2" in printed["get"]
    assert "Deployment churn is deleted" in printed["delete"]
    assert get_deploy_client("fargate:/local").list_deployments() == []


def test_every_command_for_operators_works_as_described(churn: str, tmp_path: Path) -> None:
    client = get_deploy_client("fargate:/local")
    client.create_deployment("churn", "models:/churn/1", config={"auth": "none", "deregistration_delay_seconds": 1})
    client.update_deployment("churn", "models:/churn/2")
    exit_codes = {"plan": 2}  # it has changes
    printed = {}
    try:
        for command in first_block((ROOT / "docs" / "operating.md").read_text(encoding="utf-8")):
            verb = command.split()[1]
            printed[verb] = run(command, tmp_path, exit_codes.get(verb, 0))
        status = client.get_deployment("churn")
    finally:
        client.delete_deployment("churn")

    assert "desired_count: 1 → 2" in printed["plan"]
    assert "models:/churn/2" in printed["status"]
    assert "has reached a steady state" in printed["events"]
    assert "/churn" in printed["logs"] or "bentoml" in printed["logs"].lower()
    assert "COMPLETED" in printed["history"]
    assert (status["model_version"], status["follow"], status["desired_count"]) == ("1", "pinned", 2)


def test_the_local_stack_works_as_the_readme_describes(local_stack: dict[str, str], tmp_path: Path) -> None:
    for command in commands_under("Try it without AWS"):
        if not command.startswith(ELSEWHERE):
            run(command, tmp_path)


def test_the_help_lists_every_option() -> None:
    printed = run("mlflow deployments help -t fargate", ROOT)

    assert "  deregistration_delay_seconds: " in printed

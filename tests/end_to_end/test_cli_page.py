"""The page of the command line: every command on it is run, in order, and prints the output shown there.

MLFLOW_FARGATE_WRITE_DOCS=1 writes their current output into the page (`make docs-cli`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.deployments import get_deploy_client

from support.console_page import printed, rerun

pytestmark = [pytest.mark.end_to_end, pytest.mark.exhaustive, pytest.mark.timeout(900)]

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.fixture
def undeployed(churn: str) -> Iterator[None]:
    """Deletes everything at the end, whatever failed before."""
    yield
    for name in ("churn", "pilot"):
        get_deploy_client("fargate:/local").delete_deployment(name)


def run_in(folder: Path, command: str) -> str:
    """Runs a command in `folder` and returns what the page should show for it."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return printed(done.stdout, done.stderr, done.returncode)


def test_the_command_line_page_shows_the_output_of_every_command(undeployed: None, tmp_path: Path) -> None:
    page = PAGE.read_text("utf-8")

    now = rerun(page, lambda command: run_in(tmp_path, command))
    if os.environ.get("MLFLOW_FARGATE_WRITE_DOCS"):
        PAGE.write_text(now, "utf-8")
        return

    assert now == page, "make docs-cli"

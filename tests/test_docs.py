"""The docs say what the code says: pages that are written by a command are the ones that it writes now."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from mlflow_fargate.cli import main

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_of_options_is_the_one_that_the_command_writes() -> None:
    written = CliRunner().invoke(main, ["schema", "--markdown"]).output

    assert (DOCS / "options.md").read_text("utf-8") == written, "mlflow-fargate schema --markdown > docs/options.md"

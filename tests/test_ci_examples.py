"""The CI files of examples/ci are valid to GitHub and GitLab, by the schemas that check-jsonschema brings along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.documented_commands import check_command

CI = Path(__file__).parent.parent / "examples" / "ci"


@pytest.mark.parametrize(
    ("file", "schema"), [("github-actions.yml", "vendor.github-workflows"), ("gitlab-ci.yml", "vendor.gitlab-ci")]
)
def test_the_file_is_what_its_service_reads(file: str, schema: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    if "gitlab" in schema:
        command += ["--data-transform", "gitlab-ci"]

    done = subprocess.run([*command, str(CI / file)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", ["github-actions.yml", "gitlab-ci.yml"])
def test_every_command_in_the_file_exists_with_its_options(file: str) -> None:
    lines = [line.strip() for text in strings(yaml.safe_load((CI / file).read_text())) for line in text.splitlines()]
    ours = [line.split(" >>")[0] for line in lines if line.startswith(("mlflow-fargate ", "mlflow deployments "))]

    assert len(ours) >= 2
    for line in ours:
        check_command(line)


def strings(found: Any) -> list[str]:
    if isinstance(found, str):
        return [found]
    inside = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    return [text for item in inside for text in strings(item)]

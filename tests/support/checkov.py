"""checkov, a judge of CloudFormation templates, in an environment of its own: it pins boto3 and 90 other packages."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import uv
from filelock import FileLock

VERSION = "3.3.30"
_FOLDER = Path(__file__).resolve().parents[2] / "build" / f"checkov-{VERSION}"


def judge(templates: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Returns the checks of the templates by result: `passed_checks`, `failed_checks`, `skipped_checks`.

    Skips where checkov cannot be installed.
    """
    files = [part for template in templates for part in ("-f", str(template))]
    options = ["--framework", "cloudformation", "--skip-download", "--output", "json"]
    done = subprocess.run([str(_installed()), *files, *options], capture_output=True, text=True, check=False)
    results: dict[str, Any] = json.loads(done.stdout)
    assert results["summary"]["parsing_errors"] == 0, done.stdout + done.stderr
    return dict(results["results"])


def _installed() -> Path:
    program = _FOLDER / "bin" / "checkov"
    _FOLDER.parent.mkdir(exist_ok=True)
    with FileLock(f"{_FOLDER}.lock"):
        if not (_FOLDER / "installed").exists():
            python = str(_FOLDER / "bin" / "python")
            for command in (
                ["venv", "-q", "--clear", "--python", sys.executable, str(_FOLDER)],
                ["pip", "install", "-q", "--python", python, f"checkov=={VERSION}"],
            ):
                done = subprocess.run([uv.find_uv_bin(), *command], capture_output=True, text=True, check=False)
                if done.returncode:
                    pytest.skip(f"checkov {VERSION} cannot be installed: {done.stderr.strip()[-300:]}")
            (_FOLDER / "installed").touch()
    return program

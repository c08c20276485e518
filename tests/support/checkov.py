"""checkov, a judge of CloudFormation templates."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from support.installed import installed

VERSION = "3.3.30"


def judge(templates: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Returns the checks of the templates by result: `passed_checks`, `failed_checks`, `skipped_checks`.

    Skips where checkov cannot be installed.
    """
    files = [part for template in templates for part in ("-f", str(template))]
    options = ["--framework", "cloudformation", "--skip-download", "--output", "json"]
    program = installed("checkov", VERSION) / "checkov"
    done = subprocess.run([str(program), *files, *options], capture_output=True, text=True, check=False)
    results: dict[str, Any] = json.loads(done.stdout)
    assert results["summary"]["parsing_errors"] == 0, done.stdout + done.stderr
    return dict(results["results"])

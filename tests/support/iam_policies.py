"""The policies in docs/iam."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parents[2] / "docs" / "iam"


def policy(name: str) -> list[dict[str, Any]]:
    statements: list[dict[str, Any]] = json.loads((_FOLDER / f"{name}.json").read_text())["Statement"]
    return statements


def allowed(name: str) -> set[str]:
    return {action for statement in policy(name) for action in statement["Action"]}

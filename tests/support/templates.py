"""The CloudFormation templates in infrastructure/, decoded: `!Ref Vpc` is {"Ref": "Vpc"}."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cfnlint.decode.cfn_yaml import load

FOLDER = Path(__file__).resolve().parents[2] / "infrastructure"
NETWORK, TRACKING_SERVER = FOLDER / "network.yaml", FOLDER / "tracking-server.yaml"


def decoded(path: Path) -> dict[str, Any]:
    """Returns a template as CloudFormation reads it."""
    found: dict[str, Any] = load(str(path))
    return found


def of_type(template: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """Returns the resources of a type, such as `S3::Bucket`, by name."""
    return {name: one for name, one in template["Resources"].items() if one["Type"] == f"AWS::{kind}"}


def inside(value: Any) -> Iterator[Any]:
    """Yields `value` and everything in it."""
    yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from inside(part)


def accepts(template: dict[str, Any], parameter: str, value: str) -> bool:
    """Returns whether CloudFormation accepts a value of a parameter of type String."""
    found = template["Parameters"][parameter]
    if "AllowedValues" in found:
        return value in [str(one) for one in found["AllowedValues"]]
    return re.fullmatch(found["AllowedPattern"], value) is not None

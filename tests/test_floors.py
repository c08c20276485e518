"""No version that setup.py allows has a serious flaw that is known (support/advisories.py)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from support.advisories import ADVISORIES, EXCEPTIONS, NONE_KNOWN, Advisory

SETUP = Path(__file__).parents[1] / "setup.py"
# What is only for developing and testing is not installed by users.
OF_USERS = ("CORE", "LOCAL", "WEBHOOK", "SBOM", "DEMO")


def stated() -> list[str]:
    """Returns the requirement lines of users' installations."""
    lists = {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(SETUP.read_text("utf-8")).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in OF_USERS
    }
    assert set(lists) == set(OF_USERS)
    return [line for name in OF_USERS for line in lists[name]]


REQUIREMENTS = {line: Requirement(line) for line in stated()}


def floor_of(requirement: Requirement) -> Version | None:
    """Returns the oldest version that a requirement allows."""
    floors = [Version(one.version) for one in requirement.specifier if one.operator in {">=", "~=", "=="}]
    return max(floors, default=None)


@pytest.mark.parametrize("advisory", ADVISORIES, ids=lambda one: f"{one.package}-{one.source.rpartition('/')[2]}")
def test_no_floor_has_the_flaw(advisory: Advisory) -> None:
    floors = {
        line: floor_of(requirement)
        for line, requirement in REQUIREMENTS.items()
        if canonicalize_name(requirement.name) == advisory.package and line not in EXCEPTIONS
    }

    assert floors, "an advisory on something that is not required"
    assert advisory.source.startswith("https://") and advisory.gist and advisory.checked
    assert not [line for line, floor in floors.items() if floor is None or floor < Version(advisory.fixed)]


def test_every_dependency_was_looked_up() -> None:
    known = {one.package for one in ADVISORIES} | NONE_KNOWN
    required = {canonicalize_name(requirement.name) for requirement in REQUIREMENTS.values()}

    assert required == known
    assert set(EXCEPTIONS) <= set(REQUIREMENTS)
    assert not NONE_KNOWN & {one.package for one in ADVISORIES}

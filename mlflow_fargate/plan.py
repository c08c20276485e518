"""Decide, before doing: what differs between resources wanted and found. Pure; `str(plan)` is what a user reads.

A `Resource` is wanted (resources.py says which), a `Found` is what AWS shows of it, `make_plan` puts a `Change` between
the two, and aws/ applies the changes in the plan's order. Names here are AWS's own words for each kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal["create", "change", "keep", "delete"]
_MARKS: Mapping[str, str] = {"create": "+", "change": "~", "keep": "=", "delete": "-"}


@dataclass(frozen=True)
class Resource:
    """Something that should exist: `properties` are what we decide of it; `tags` say whose it is."""

    kind: str
    name: str
    properties: Mapping[str, Any] = field(default_factory=dict, hash=False)
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Found:
    """Something that exists: `identifier` is what AWS calls it (an ARN, an id); `is_ours` when it carries our tags."""

    identifier: str
    properties: Mapping[str, Any] = field(default_factory=dict, hash=False)
    is_ours: bool = True


@dataclass(frozen=True)
class Change:
    """One step from found to wanted. `wanted` is None for a deletion, `found` for a creation."""

    action: Action
    kind: str
    name: str
    wanted: Resource | None = None
    found: Found | None = None

    @property
    def differences(self) -> tuple[tuple[str, Any, Any], ...]:
        """(property, before, after) of a change."""
        if self.wanted is None or self.found is None:
            return ()
        before = self.found.properties
        return tuple(
            (key, before.get(key), after) for key, after in self.wanted.properties.items() if before.get(key) != after
        )

    def __str__(self) -> str:
        lines = [f"{_MARKS[self.action]} {self.action} {self.kind} {self.name}"]
        lines += [f"    {key}: {_show(before)} → {_show(after)}" for key, before, after in self.differences]
        return "\n".join(lines)


@dataclass(frozen=True)
class Plan:
    """Changes in the order in which they can be made."""

    changes: tuple[Change, ...]

    @property
    def is_empty(self) -> bool:
        """True when nothing would be written."""
        return all(change.action == "keep" for change in self.changes)

    def __str__(self) -> str:
        lines = [str(change) for change in self.changes if change.action != "keep"]
        kept = sum(change.action == "keep" for change in self.changes)
        if kept:
            lines.append(f"= {kept} unchanged")
        return "\n".join(lines or ["= nothing to do"])


def make_plan(wanted: Sequence[Resource], found: Mapping[tuple[str, str], Found]) -> Plan:
    """What to do so that `wanted` (in order of dependency) exist as described; `found` by (kind, name)."""
    return Plan(tuple(_compare(resource, found.get((resource.kind, resource.name))) for resource in wanted))


def make_deletion(found: Sequence[tuple[str, str, Found]]) -> Plan:
    """Deletes what of ours was `found` (kind, name, what; in order of dependency), the last made first."""
    changes = [Change("delete", kind, name, found=what) for kind, name, what in reversed(found) if what.is_ours]
    return Plan(tuple(changes))


def _compare(resource: Resource, found: Found | None) -> Change:
    if found is None:
        return Change("create", resource.kind, resource.name, wanted=resource)
    change = Change("change", resource.kind, resource.name, wanted=resource, found=found)
    return change if change.differences else Change("keep", resource.kind, resource.name, wanted=resource, found=found)


def _show(value: Any) -> str:
    text = "nothing" if value in (None, "", (), {}, []) else str(value)
    return text if len(text) <= 100 else f"{text[:97]}…"

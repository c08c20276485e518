"""Decide, before doing: what differs between resources wanted and found. Pure; `str(plan)` is what a user reads.

A `Resource` is wanted (resources/ says which), a `Found` is what AWS shows of it, `make_plan` puts a `Change` between
the two, and aws/ applies the changes in the plan's order. Names here are AWS's own words for each kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal["create", "change", "keep", "delete"]
_MARKS: Mapping[str, str] = {"create": "+", "change": "~", "keep": "=", "delete": "-"}


@dataclass(frozen=True)
class Resource:
    """Something that should exist: `properties` are what we decide of it; `tags` say whose it is.

    Not `is_wanted`: it should be absent, and goes if it is there and ours.
    """

    kind: str
    name: str
    properties: Mapping[str, Any] = field(default_factory=dict, hash=False)
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    is_wanted: bool = True


@dataclass(frozen=True)
class Found:
    """Something that exists: `identifier` is what AWS calls it (an ARN, an id); `is_ours` when it carries our tags.

    `note`: what a reader of the plan should know of it, though nothing is to be done about it.
    """

    identifier: str
    properties: Mapping[str, Any] = field(default_factory=dict, hash=False)
    is_ours: bool = True
    note: str = ""


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
        for key, before, after in self.differences:
            leaves = _leaves(key, before, after)
            lines += [f"    {path}: {_show(old)} → {_show(new)}" for path, old, new in leaves]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is done, to what, and the properties that differ (all of them for a creation)."""
        properties = self.wanted.properties.items() if self.wanted and not self.found else ()
        differences = [*self.differences, *((key, None, value) for key, value in properties)]
        return {
            "action": self.action,
            "kind": self.kind,
            "name": self.name,
            "identifier": self.found.identifier if self.found else None,
            "differences": [{"property": key, "before": old, "after": new} for key, old, new in differences],
        }


@dataclass(frozen=True)
class Plan:
    """Changes in the order in which they can be made, and what else was decided that a reader should know."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True when nothing would be written."""
        return all(change.action == "keep" for change in self.changes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the changes in their order."""
        notes = {"notes": list(self.notes)} if self.notes else {}
        return {"has_changes": not self.is_empty, "changes": [change.as_dict() for change in self.changes], **notes}

    def __str__(self) -> str:
        lines = [str(change) for change in self.changes if change.action != "keep"]
        kept = sum(change.action == "keep" for change in self.changes)
        if kept:
            lines.append(f"= {kept} unchanged")
        return "\n".join([*(lines or ["= nothing to do"]), *self.notes])


def make_plan(wanted: Sequence[Resource], found: Mapping[tuple[str, str], Found]) -> Plan:
    """What to do so that `wanted` (in order of dependency) exist as described; `found` by (kind, name)."""
    compared = (_compare(resource, found.get((resource.kind, resource.name))) for resource in wanted)
    changes = tuple(change for change in compared if change is not None)
    return Plan(changes, notes=tuple(change.found.note for change in changes if change.found and change.found.note))


def make_deletion(found: Sequence[tuple[str, str, Found]]) -> Plan:
    """Deletes what of ours was `found` (kind, name, what; in order of dependency), the last made first."""
    changes = [Change("delete", kind, name, found=what) for kind, name, what in reversed(found) if what.is_ours]
    return Plan(tuple(changes))


def _compare(resource: Resource, found: Found | None) -> Change | None:
    if not resource.is_wanted:
        is_to_go = found is not None and found.is_ours
        return Change("delete", resource.kind, resource.name, found=found) if is_to_go else None
    if found is None:
        return Change("create", resource.kind, resource.name, wanted=resource)
    change = Change("change", resource.kind, resource.name, wanted=resource, found=found)
    return change if change.differences else Change("keep", resource.kind, resource.name, wanted=resource, found=found)


def _leaves(path: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """What differs inside of tables (and of texts that are JSON tables), as 'environment.A', before, after."""
    before, after = _table_or_value(before), _table_or_value(after)
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        yield path, before, after
        return
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            yield from _leaves(f"{path}.{key}", before.get(key), after.get(key))


def _table_or_value(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith("{"):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _show(value: Any) -> str:
    text = "nothing" if value in (None, "", (), {}, []) else str(value)
    return text if len(text) <= 100 else f"{text[:97]}…"

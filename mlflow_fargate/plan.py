"""Decide, before doing: what differs between resources wanted and found. Pure; `str(plan)` is what a user reads.

A `Resource` is wanted (resources/ says which), a `Found` is what AWS shows of it, `make_plan` puts a `Change` between
the two, and aws/ applies the changes in the plan's order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Generic, Literal, TypeVar

# AWS's own words, so that a plan reads as its consoles do.
TypeName = Literal[
    "cluster",
    "execution role",
    "infrastructure role",
    "load balancer security group",
    "task security group",
    "load balancer",
    "listener",
    "redirect listener",
    "log group",
    "API key",
    "task role",
    "secrets policy",
    "target group",
    "alternate target group",
    "test rule",
    "listener rule",
    "host rule",
    "task definition",
    "service",
    "autoscaling",
]
Action = Literal["create", "change", "keep", "delete"]
_MARKS: Mapping[str, str] = {"create": "+", "change": "~", "keep": "=", "delete": "-"}


@dataclass(frozen=True)
class Properties:
    """What is decided about a resource, or seen of it: a subclass for each type (resources/properties.py).

    A plan compares the fields, except those with `compare=False`; where nothing is decided, there are none.
    """


P_co = TypeVar("P_co", bound=Properties, covariant=True)


@dataclass(frozen=True)
class Resource(Generic[P_co]):
    """Something that should exist: `properties` are what we decide about it; `tags` say whose it is.

    Not `is_wanted`: it should be absent, and is deleted if it is there and ours.
    """

    resource_type: TypeName
    name: str
    properties: P_co = field(hash=False)
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    is_wanted: bool = True


@dataclass(frozen=True)
class Found(Generic[P_co]):
    """Something that exists: `identifier` is what AWS calls it (an ARN, an ID); `is_ours` when it carries our tags.

    `note`: what a reader of the plan should know about it, though there is nothing to do.
    """

    identifier: str
    properties: P_co = field(hash=False)
    is_ours: bool = True
    note: str = ""


@dataclass(frozen=True)
class Change:
    """One step from found to wanted. `wanted` is None for a deletion, `found` for a creation."""

    action: Action
    resource_type: TypeName
    name: str
    wanted: Resource[Properties] | None = None
    found: Found[Properties] | None = None

    @property
    def differences(self) -> tuple[tuple[str, Any, Any], ...]:
        """(property, before, after) of a change."""
        if self.wanted is None or self.found is None:
            return ()
        before, after = asdict(self.found.properties), asdict(self.wanted.properties)
        compared = [item.name for item in fields(self.wanted.properties) if item.compare]
        return tuple((key, before.get(key), after[key]) for key in compared if before.get(key) != after[key])

    def __str__(self) -> str:
        lines = [f"{_MARKS[self.action]} {self.action} {self.resource_type} {self.name}"]
        for key, before, after in self.differences:
            leaves = _leaves(key, before, after)
            lines += [f"    {path}: {_show(old)} → {_show(new)}" for path, old, new in leaves]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is done, to what, and the properties that differ (all of them for a creation)."""
        differences = self.differences
        if self.wanted and not self.found:
            after = asdict(self.wanted.properties)
            decided = [
                item.name for item in fields(self.wanted.properties) if item.compare or after[item.name] is not None
            ]
            differences = tuple((key, None, after[key]) for key in decided)
        return {
            "action": self.action,
            "kind": self.resource_type,
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


def make_plan(wanted: Sequence[Resource[Properties]], found: Mapping[tuple[TypeName, str], Found[Properties]]) -> Plan:
    """What to do so that `wanted` (in order of dependency) exist as described; `found` by (type, name)."""
    compared = (_compare(resource, found.get((resource.resource_type, resource.name))) for resource in wanted)
    changes = tuple(change for change in compared if change is not None)
    return Plan(changes, notes=tuple(change.found.note for change in changes if change.found and change.found.note))


def make_deletion(found: Sequence[tuple[TypeName, str, Found[Properties]]]) -> Plan:
    """Deletes what was `found` (type, name, what; in order of dependency) and is ours, the last created first."""
    ours = [item for item in reversed(found) if item[2].is_ours]
    return Plan(tuple(Change("delete", resource_type, name, found=what) for resource_type, name, what in ours))


def _compare(resource: Resource[Properties], found: Found[Properties] | None) -> Change | None:
    place = (resource.resource_type, resource.name)
    if not resource.is_wanted:
        return Change("delete", *place, found=found) if found and found.is_ours else None
    if found is None:
        return Change("create", *place, wanted=resource)
    change = Change("change", *place, wanted=resource, found=found)
    return change if change.differences else replace(change, action="keep")


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
    text = "nothing" if value in (None, "", (), {}, []) else str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 100 else f"{text[:97]}…"

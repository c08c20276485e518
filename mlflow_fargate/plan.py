"""Decides before acting: how the desired resources differ from those found. Pure; `str(plan)` is what a user reads.

A `Resource` is desired (resources/ decides which), a `Found` is what AWS shows of it, `make_plan` derives a `Change`
from the two, and aws/ applies the changes in the plan's order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Generic, Literal, TypeVar

from mlflow_fargate.progress import shorten_arns

# AWS's own terms, so that a plan reads like its consoles.
TypeName = Literal[
    "cluster",
    "execution role",
    "infrastructure role",
    "load balancer security group",
    "task security group",
    "load balancer",
    "certificate",
    "DNS record",
    "listener",
    "listener certificate",
    "redirect listener",
    "log group",
    "API key",
    "task role",
    "inference log role",
    "secrets policy",
    "target group",
    "alternate target group",
    "test rule",
    "listener rule",
    "host rule",
    "variant rule",
    "traffic",
    "alarm",
    "task definition",
    "service",
    "autoscaling",
]
Action = Literal["create", "change", "keep", "delete"]
# A value that differs, as a user reads it: (option or property, before, after).
Difference = tuple[str, Any, Any]
_MARKS: Mapping[str, str] = {"create": "+", "change": "~", "keep": "=", "delete": "-"}
_MOST_CHARACTERS = 100


@dataclass(frozen=True)
class Properties:
    """What is decided about a resource, or found of it: a subclass for each type (resources/properties.py).

    A plan compares the fields, except those with `compare=False`. Resources without settings have none.
    """

    # Field (or `field.` for what is inside of it) → the option that it comes from; '' hides it, or drops the prefix.
    option_names: ClassVar[Mapping[str, str]] = {}

    def changes_since(self, before: Properties) -> Iterator[Difference]:
        """Yields the differences as a user reads them, by the names of their options."""
        old, new = asdict(before), asdict(self)
        for item in fields(self):
            if item.compare:
                for path, was, is_now in leaves(item.name, old.get(item.name), new[item.name]):
                    if name := self._option_name(path):
                        yield name, was, is_now

    def _option_name(self, path: str) -> str:
        for prefix, option in self.option_names.items():
            if path == prefix or (prefix.endswith(".") and path.startswith(prefix)):
                return option + path[len(prefix) :]
        return path


P_co = TypeVar("P_co", bound=Properties, covariant=True)


@dataclass(frozen=True)
class Resource(Generic[P_co]):
    """A resource that should exist: `properties` are what this package decides about it; `tags` say who owns it.

    Not `is_wanted`: it should be absent, and is deleted if it exists and carries this package's tags.
    """

    resource_type: TypeName
    name: str
    properties: P_co = field(hash=False)
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    is_wanted: bool = True


@dataclass(frozen=True)
class Found(Generic[P_co]):
    """A resource that exists: `identifier` is its ARN or ID; `is_ours` when it carries this package's tags.

    `note`: a fact for readers of the plan that requires no change.
    """

    identifier: str
    properties: P_co = field(hash=False)
    is_ours: bool = True
    note: str = ""


@dataclass(frozen=True)
class Change:
    """One step from found to desired. `wanted` is None for a deletion, `found` for a creation."""

    action: Action
    resource_type: TypeName
    name: str
    wanted: Resource[Properties] | None = None
    found: Found[Properties] | None = None

    @property
    def differences(self) -> tuple[Difference, ...]:
        """(property, before, after) of a change."""
        if self.wanted is None or self.found is None:
            return ()
        before, after = asdict(self.found.properties), asdict(self.wanted.properties)
        compared = [item.name for item in fields(self.wanted.properties) if item.compare]
        return tuple((key, before.get(key), after[key]) for key in compared if before.get(key) != after[key])

    @property
    def title(self) -> str:
        """'create load balancer mlflow-fargate-default'"""
        return f"{self.action} {self.resource_type} {self.name}"

    def __str__(self) -> str:
        lines = [f"{_MARKS[self.action]} {self.title}"]
        if self.wanted and self.found:
            changes = self.wanted.properties.changes_since(self.found.properties)
            lines += [f"    {name}: {_show(old)} → {_show(new)}" for name, old, new in changes]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Returns JSON-able values: the action, the resource, and its properties that differ (all, if it is new)."""
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
    """Changes in the order in which they are applied, and notes on what else was decided."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to change."""
        return all(change.action == "keep" for change in self.changes)

    def split(self, last: TypeName) -> tuple[Plan, Plan]:
        """Returns the plan without the changes to resources of one type, and these."""
        changes = [change for change in self.changes if change.resource_type != last]
        rest = [change for change in self.changes if change.resource_type == last]
        return replace(self, changes=tuple(changes)), Plan(tuple(rest))

    def as_dict(self) -> dict[str, Any]:
        """Returns JSON-able values; the changes in order."""
        notes = {"notes": list(self.notes)} if self.notes else {}
        return {"has_changes": not self.is_empty, "changes": [change.as_dict() for change in self.changes], **notes}

    def __str__(self) -> str:
        lines = [str(change) for change in self.changes if change.action != "keep"]
        kept = sum(change.action == "keep" for change in self.changes)
        if kept:
            lines.append(f"= {kept} unchanged")
        return "\n".join([*self.notes, *(lines or ["= nothing to do"])])


def make_plan(wanted: Sequence[Resource[Properties]], found: Mapping[tuple[TypeName, str], Found[Properties]]) -> Plan:
    """Returns what to do so that `wanted` (in order of dependency) exists as described; `found` by (type, name)."""
    compared = (_compare(resource, found.get((resource.resource_type, resource.name))) for resource in wanted)
    changes = tuple(change for change in compared if change is not None)
    return Plan(changes, notes=tuple(change.found.note for change in changes if change.found and change.found.note))


def make_deletion(found: Sequence[tuple[TypeName, str, Found[Properties]]]) -> Plan:
    """Returns the deletion of those `found` (type, name, resource; in order of dependency) that carry our tags."""
    ours = [item for item in reversed(found) if item[2].is_ours]
    return Plan(tuple(Change("delete", resource_type, name, found=what) for resource_type, name, what in ours))


def leaves(path: str, before: Any, after: Any) -> Iterator[Difference]:
    """Yields what differs inside of nested tables, as ('environment.A', before, after)."""
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        if before != after:
            yield path, before, after
        return
    for key in sorted({*before, *after}):
        yield from leaves(f"{path}.{key}", before.get(key), after.get(key))


def _compare(resource: Resource[Properties], found: Found[Properties] | None) -> Change | None:
    place = (resource.resource_type, resource.name)
    if not resource.is_wanted:
        return Change("delete", *place, found=found) if found and found.is_ours else None
    if found is None:
        return Change("create", *place, wanted=resource)
    change = Change("change", *place, wanted=resource, found=found)
    return change if change.differences else replace(change, action="keep")


def _show(value: Any) -> str:
    if value in (None, "", (), {}, []):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    text = ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
    text = shorten_arns(text)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"

"""Parses Debian's control data: paragraphs of fields, versions and their order, relations. Pure.

Source: Debian Policy 5.1 (control data), 5.6.12 (versions), 7.1 (relations).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import eq, ge, gt, le, lt
from typing import Any

Paragraph = Mapping[str, str]

_RELATION = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9+.-]*)(:\w+)?\s*(\(\s*(?P<operator><<|<=|=|>=|>>)\s*(?P<version>\S+?)\s*\))?"
)
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {"<<": lt, "<=": le, "=": eq, ">=": ge, ">>": gt}


def parse_paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Yields the paragraphs as fields; a multi-line field keeps its line breaks."""
    for paragraph in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line[:1] in {" ", "\t"} and name:
                fields[name] += f"\n{line.strip()}"
            elif ":" in line and not line.startswith("#"):
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def version_key(version: str) -> tuple[Any, ...]:
    """Returns a key that sorts as versions do: 1.0~rc1 < 1.0 < 1.0+b1, and an epoch (2:) before all."""
    epoch, colon, rest = version.partition(":")
    upstream, _, revision = (rest if colon else version).rpartition("-")
    if not upstream:
        upstream, revision = revision, "0"
    return (_number(epoch) if colon and epoch.isdecimal() else _number(""), _part_key(upstream), _part_key(revision))


def _part_key(part: str) -> list[Any]:
    """Returns alternating texts and numbers, ending in an empty text, which sorts after '~' and before all else."""
    pieces = re.findall(r"([^0-9]*)([0-9]*)", part)
    return [item for text, number in pieces for item in (tuple(map(_order, text + "\0")), _number(number))]


def _number(digits: str) -> tuple[int, str]:
    """Sorts as the number does. A base image can contain any number of digits; Python parses at most 4,300."""
    significant = digits.lstrip("0")
    return len(significant), significant


def _order(character: str) -> int:
    if character == "~":
        return -1
    if character == "\0":
        return 0
    return ord(character) if character.isalpha() else ord(character) + 256


@dataclass(frozen=True)
class Relation:
    """One alternative of a dependency: a package's name, and the versions that satisfy it."""

    name: str
    operator: str | None = None
    version: str = ""

    def accepts(self, version: str | None) -> bool:
        """Returns whether that version satisfies it; None: a virtual package without a version."""
        if self.operator is None:
            return True
        return version is not None and _OPERATORS[self.operator](version_key(version), version_key(self.version))

    def __str__(self) -> str:
        return f"{self.name} ({self.operator} {self.version})" if self.operator else self.name


def parse_relations(text: str) -> tuple[tuple[Relation, ...], ...]:
    """Returns each dependency with its alternatives: 'libc6 (>= 2.34), a | b'."""
    groups = []
    for group in text.replace("\n", " ").split(","):
        found = (_RELATION.fullmatch(alternative.strip()) for alternative in group.split("|"))
        alternatives = tuple(Relation(one["name"], one["operator"], one["version"] or "") for one in found if one)
        if alternatives:
            groups.append(alternatives)
    return tuple(groups)


@dataclass(frozen=True)
class DebianPackage:
    """A package in the archive, or an installed one."""

    name: str
    version: str
    dependencies: str = ""  # unparsed: only a few of tens of thousands of packages are used
    provides: tuple[Relation, ...] = ()
    path: str = ""  # in the archive; '' if installed
    sha256: str = ""
    size_bytes: int = 0
    archive: str = field(default="", compare=False)  # URL of the archive
    architecture: str = field(default="", compare=False)  # or 'all'

    @classmethod
    def of_paragraph(cls, fields: Paragraph, *, archive: str = "") -> DebianPackage:
        """Raises KeyError or ValueError if it is not a package's paragraph."""
        return cls(
            name=fields["Package"],
            version=fields["Version"],
            dependencies=f"{fields.get('Pre-Depends', '')},{fields.get('Depends', '')}",
            provides=tuple(one for group in parse_relations(fields["Provides"]) for one in group)
            if "Provides" in fields
            else (),
            path=fields.get("Filename", ""),
            sha256=fields.get("SHA256", ""),
            size_bytes=int(fields.get("Size", 0)),
            archive=archive,
            architecture=fields.get("Architecture", ""),
        )

    @property
    def depends(self) -> tuple[tuple[Relation, ...], ...]:
        """Each dependency with its alternatives."""
        return parse_relations(self.dependencies)


def parse_status(status: str) -> tuple[DebianPackage, ...]:
    """Returns the packages in dpkg's status (in distroless images: status.d)."""
    return tuple(
        DebianPackage.of_paragraph(fields)
        for fields in parse_paragraphs(status)
        if {"Package", "Version"} <= fields.keys()
        and fields.get("Status", "installed").rpartition(" ")[2] == "installed"
    )

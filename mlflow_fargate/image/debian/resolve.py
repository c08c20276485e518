"""Finds the packages to add to a base so that the requested ones work there. Pure."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterable, Mapping

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.debian.control import DebianPackage, Relation, version_key


def resolve(
    wanted: Iterable[str], offered: Iterable[DebianPackage], installed: Iterable[DebianPackage]
) -> tuple[DebianPackage, ...]:
    """Returns the packages to add, by name: the newest of each, with dependencies that are not `installed`.

    Like `apt --no-install-recommends`; takes the first available alternative. Raises ImageError for a dependency that
    is not available.
    """
    newest = _newest(offered)
    chosen: dict[str, DebianPackage] = {}
    there = _by_name(installed)
    queue: deque[tuple[Relation, ...]] = deque((Relation(name),) for name in dict.fromkeys(wanted))
    while queue:
        alternatives = queue.popleft()
        if any(_is_met(one, there) or _is_met(one, _by_name(chosen.values())) for one in alternatives):
            continue
        package = next((found for one in alternatives if (found := _candidate(one, newest))), None)
        if package is None:
            raise _nobody_offers(alternatives, newest)
        chosen[package.name] = package
        queue.extend(package.depends)
    return tuple(sorted(chosen.values(), key=lambda package: package.name))


def _newest(offered: Iterable[DebianPackage]) -> dict[str, DebianPackage]:
    newest: dict[str, DebianPackage] = {}
    for package in offered:
        known = newest.get(package.name)
        if known is None or version_key(package.version) > version_key(known.version):
            newest[package.name] = package
    return newest


def _by_name(packages: Iterable[DebianPackage]) -> dict[str, list[str | None]]:
    """Returns versions by name, including virtual packages."""
    found: dict[str, list[str | None]] = {}
    for package in packages:
        found.setdefault(package.name, []).append(package.version)
        for one in package.provides:
            found.setdefault(one.name, []).append(one.version or None)
    return found


def _is_met(relation: Relation, there: Mapping[str, list[str | None]]) -> bool:
    return any(relation.accepts(version) for version in there.get(relation.name, ()))


def _candidate(relation: Relation, newest: Mapping[str, DebianPackage]) -> DebianPackage | None:
    """Returns the package with that name, else the first (by name) that provides it."""
    package = newest.get(relation.name)
    if package and relation.accepts(package.version):
        return package
    providers = (
        package
        for _, package in sorted(newest.items())
        if any(one.name == relation.name and relation.accepts(one.version or None) for one in package.provides)
    )
    return next(providers, None)


def _nobody_offers(alternatives: tuple[Relation, ...], newest: Mapping[str, DebianPackage]) -> ImageError:
    wanted = " | ".join(map(str, alternatives))
    close = difflib.get_close_matches(alternatives[0].name, newest, n=3)
    return ImageError(
        f"Debian has no package {wanted} for this base image.",
        hint=f"did you mean {', '.join(close)}?" if close else "search on https://packages.debian.org",
    )

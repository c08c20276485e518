"""Adapts a model's requirements for serving on Linux without a GPU. Pure.

MLflow records what the training machine had: `xgboost` next to `xgboost-cpu`, builds for macOS, OpenCV with windows,
all of MLflow. Fixing that saves more bytes than every other optimization of an image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from operator import and_
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.packages.repositories import instead_of_source, with_archive
from mlflow_fargate.image.packages.twins import find_replacements, versions_of
from mlflow_fargate.requirement_files import (
    CONSTRAINT,
    MODEL_FILES,
    included_lines,
    is_constraint,
    split_lines,
    without_hashes,
)
from mlflow_fargate.resolved_model import without_credentials

_GPU_PACKAGES = re.compile(r"(tensorflow|jax)-metal|jax-(cuda|rocm)\d+-(plugin|pjrt)")
_GPU_EXTRAS = re.compile(r"(and-)?cuda.*|cudnn|rocm.*")
_INDEX_OPTION = re.compile(
    r"(-i|--index-url|--extra-index-url)(?:\s+|=)(\S+)|(?:-f|--find-links)(?:\s+|=)(https?://\S+)"
)
_PYPI = "https://pypi.org/simple"
_USABLE_URL = re.compile(rf"(?i:https?)://[^/]|{MODEL_FILES}")
# pip's options that say what happens anyway, and what to use instead of the others. None is taken from a model.
_IMPLIED = re.compile(r"--(require-hashes|prefer-binary|only-binary\b.*)")
_INSTEAD = {
    "-f": "if you trust it, set the option find_links=",
    "--find-links": "if you trust it, set the option find_links=",
    "--trusted-host": "to accept a package index without TLS, set UV_INSECURE_HOST=HOST for this command",
    "--no-binary": "packages without wheels are built with the option build_sdists=true",
    "--no-index": "choose the package indexes with the options index_url and extra_index_urls",
    "--pre": "name the versions with the option requirements=NAME==VERSION",
    "-e": "log the package's code with the model (code_paths), or publish a wheel to an index",
    "--editable": "log the package's code with the model (code_paths), or publish a wheel to an index",
}


class Normalized(NamedTuple):
    """Lines for uv (index options, then sorted requirements, then constraints), and what was changed and why."""

    lines: tuple[str, ...]
    notes: tuple[str, ...]


def normalize(requirements: Sequence[str], *, machine: str, adapt: bool = True) -> Normalized:
    """Adapts requirements for Linux on `machine` (x86_64 or aarch64); raises ImageError for unsupported lines.

    Without `adapt`, packages are not replaced: lines are only parsed, checked, sorted and merged.
    Idempotent.
    """
    options: list[str] = []
    notes: list[str] = []
    asked: list[Requirement] = []
    limits: list[str] = []
    for line in _lines(requirements):
        if is_constraint(line):
            limits.append(line)
        elif _IMPLIED.fullmatch(line):
            continue
        elif (option := _index_option(line)) and "${" not in line:
            options.append(" ".join(option))
        else:
            parsed = _parse(with_archive(line))
            asked += _adapted(parsed, notes) if adapt else [parsed]
    by_url = {one.name for one in asked if one.url}
    replaced = find_replacements(_versions(asked), machine, named=by_url) if adapt else {}
    notes += [f"{name} → {best}: {reason}" for name, (best, reason) in replaced.items()]
    wanted = _merge(asked, replaced, notes)
    if adapt and _has_bare_skinny(wanted):
        # mlflow.pyfunc imports pandas, which the slim distribution does not include. A model that does not require
        # pandas itself works with 2, as all releases of MLflow do.
        wanted["pandas", ""] = Requirement("pandas<3")
        notes.append("pandas added: mlflow.pyfunc needs it, and mlflow-skinny does not include it")
    lines = (
        *dict.fromkeys(options),
        *sorted(str(requirement) for requirement in wanted.values()),
        *sorted({_limit(line, replaced) for line in limits}),
    )
    return Normalized(lines, tuple(dict.fromkeys(notes)))


def lines_of_a_model(requirements: Sequence[str], indexes: Iterable[str | None]) -> tuple[str, ...]:
    """Returns a model's lines without the index options; raises ImageError for an index that is not in `indexes`.

    Anyone who can log a model writes them, so they do not decide where packages come from: those lines name packages
    of the indexes that the deployer uses, wheels at https URLs, or wheels in the model (publisher/wheels.py).
    """
    known = {without_credentials(url).rstrip("/") for url in (*indexes, _PYPI) if url}
    kept = []
    for line in _lines(requirements):
        kind, url = _index_option(line) or ("", "")
        if _IMPLIED.fullmatch(line) or (url and without_credentials(url).rstrip("/") in known):
            continue
        if url and "${" not in line:
            url = without_credentials(url)
            raise ImageError(
                f"The model's requirements name a package index that is not among the options: {url}",
                hint=f"if you trust it: {'find_links' if kind == '--find-links' else 'extra_index_urls'}={url}",
            )
        place = _parse(without_hashes(line.removeprefix(CONSTRAINT))[0] if is_constraint(line) else line).url
        if place and not place.lower().startswith(("https:", MODEL_FILES)):
            raise ImageError(
                f"Requirement {without_credentials(line)!r} of the model is not at an https:// URL.",
                hint="publish the package to an index, or set the line with the option requirements",
            )
        kept.append(line)
    return tuple(kept)


def replace_locked_twins(
    lines: Sequence[str], locked: Mapping[str, str], machine: str
) -> tuple[list[str], list[str]] | None:
    """Returns the lines, and the packages to exclude, that lock one distribution of each library; None: `lines` do.

    `lines` are normalized; `locked` maps the packages that they lock, except those by URL, to their versions.
    """
    asked = [Requirement(line) for line in lines if not is_constraint(line)]
    named = {requirement.name for requirement in asked}
    versions = {name: SpecifierSet(f"=={version}") for name, version in locked.items()}
    replaced = find_replacements(versions, machine, named=named)
    # What depends on these packages may limit their versions.
    asked += [Requirement(f"{name}<={Version(locked[name]).public}") for name in replaced if name not in named]
    merged = _merge(asked, replaced, [])
    return ([str(requirement) for requirement in merged.values()], sorted(replaced)) if replaced else None


def is_index_option(line: str) -> bool:
    """Returns whether a normalized line is an index option, not a package."""
    return line.startswith("--")


def _lines(requirements: Iterable[str]) -> Iterator[str]:
    return included_lines(split_lines("\n".join(requirements)), lambda _: None)


def _index_option(line: str) -> tuple[str, str] | None:
    """Returns the long form of an option that says where packages come from, and its URL."""
    option = _INDEX_OPTION.fullmatch(line)
    if option is None:
        return None
    return ("--find-links", option[3]) if option[3] else ("--index-url" if option[1] == "-i" else option[1], option[2])


def _limit(line: str, replaced: Mapping[str, tuple[str, str]]) -> str:
    """Returns a constraint in normal form, for what is installed instead of the package that it names."""
    bare, hashes = without_hashes(line.removeprefix(CONSTRAINT))
    limit = _parse(bare)
    limit.extras = set()
    if limit.name in replaced:
        limit, hashes = _renamed(limit, replaced[limit.name][0]), ()  # of other files
    return " ".join((f"{CONSTRAINT}{limit}", *(f"--hash={one}" for one in hashes)))


def _parse(line: str) -> Requirement:
    shown = without_credentials(line)[:300]
    if "${" in line:
        # uv would insert the value: a model could send the user's secrets to any host.
        raise ImageError(
            f"Requirement {shown!r} refers to an environment variable, which is not allowed in a model.",
            hint="set the index with the option index_url or extra_index_urls, where ${NAME} is allowed",
        )
    if option := re.match(r"--[\w-]+|-\w", line):
        raise ImageError(
            f"Requirement {shown!r} is an option that is not supported.",
            hint=_INSTEAD.get(option[0], "the only pip options supported are index URLs"),
        )
    if re.match(r"[./~]|file:|dbfs:|[A-Za-z]:[\\/]|[^\[;@:]*\.whl$", line):
        raise _path_refused(shown)
    if re.search(r"(^|@\s*)(git|hg|svn|bzr)\+", line, re.IGNORECASE):
        raise ImageError(f"Requirement {shown!r} is a source distribution.", hint=instead_of_source(line))
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        reason = without_credentials(str(error)).partition("\n")[0]  # then the whole line again
        advice = "mlflow.models.update_model_requirements() changes the lines of a logged model"
        raise ImageError(f"Requirement {shown!r} cannot be read: {reason[:300]}.", hint=advice) from error
    if requirement.url and not _USABLE_URL.match(requirement.url):
        raise _path_refused(shown)
    requirement.name = canonicalize_name(requirement.name)
    if requirement.name.endswith("-"):  # packaging accepts "x_", but not the same name in normal form
        raise ImageError(f"Requirement {shown!r} cannot be read: it is not a valid name.")
    return requirement


def _path_refused(shown: str) -> ImageError:
    advice = "publish the package to an index, or log its wheel or its code with the model (code_paths)"
    advice += "; a version of an index replaces the line: requirements=NAME==VERSION"
    return ImageError(f"Requirement {shown!r} is a path on the machine that logged the model.", hint=advice)


def _adapted(requirement: Requirement, notes: list[str]) -> list[Requirement]:
    """Returns the requirement, a better one, or nothing; adds the reason to `notes`."""
    name = str(requirement.name)
    if _GPU_PACKAGES.fullmatch(name):
        notes.append(f"{name} removed: it is for GPUs only")
        return []
    if gpu_extras := sorted(filter(_GPU_EXTRAS.fullmatch, requirement.extras)):
        notes.append(f"{name}[{','.join(gpu_extras)}]: extras removed: they are for GPUs")
        requirement.extras -= set(gpu_extras)
    if name != "mlflow" or requirement.url or requirement.extras:
        return [requirement]
    notes.append("mlflow → mlflow-skinny: loads models the same way, without the tracking server; saves about 450 MB")
    return [_renamed(requirement, "mlflow-skinny")]


def _renamed(requirement: Requirement, name: str) -> Requirement:
    renamed = Requirement(str(requirement))
    if name != requirement.name:
        renamed.name, renamed.specifier = name, versions_of(name, requirement.specifier)
    return renamed


def _versions(requirements: Sequence[Requirement]) -> dict[str, SpecifierSet]:
    """Returns the versions of each package that all its lines allow; packages by URL are left out."""
    versions: dict[str, SpecifierSet] = {}
    for one in requirements:
        if not one.url:
            versions[one.name] = versions.get(one.name, SpecifierSet()) & one.specifier
    return versions


def _merge(
    requirements: Sequence[Requirement], replaced: Mapping[str, tuple[str, str]], notes: list[str]
) -> dict[tuple[str, str], Requirement]:
    """Returns one requirement for each package and marker, with the replaced packages under their new names."""
    groups: dict[tuple[str, str], list[Requirement]] = {}
    pinned = {one.name for one in requirements if one.marker is None and _pins(one.specifier)}
    for one in requirements:
        best = one.name if one.url or one.name not in replaced else replaced[one.name][0]
        # Beside a pin of the distribution itself, the others' versions count in no environment.
        marker = "" if best != one.name and best in pinned else str(one.marker or "")
        groups.setdefault((best, marker), []).append(one)
    return {key: _merge_group(key[0], group, notes) for key, group in groups.items()}


def _merge_group(best: str, group: Sequence[Requirement], notes: list[str]) -> Requirement:
    """Returns one requirement of `best`; if versions of replaced packages contradict its own, its own count."""
    names = {one.name for one in group}
    if len(names) > 1 and _is_contradictory(group):
        own = [one for one in group if one.name == best]
        listed = ", ".join(sorted(f"{one.name}{one.specifier}" for one in group))
        if not any(_pins(one.specifier) for one in own):
            raise ImageError(
                f"The requirements name the same library in different versions: {listed}.",
                hint=f"choose a version: requirements={best}==VERSION",
            )
        notes.append(f"{listed} are the same library in different versions; the version of {best} is used")
        group = own
    return reduce(_merged, (_renamed(one, best) for one in group))


def _is_contradictory(group: Sequence[Requirement]) -> bool:
    every = reduce(and_, (one.specifier for one in group))
    return any(not every.contains(pin, prereleases=True) for pin in _pins(every))


def _pins(specifiers: SpecifierSet) -> list[str]:
    return [one.version for one in specifiers if one.operator == "==" and not one.version.endswith(".*")]


def _merged(one: Requirement, other: Requirement) -> Requirement:
    if one.url and other.url and one.url != other.url:
        places = " and ".join(without_credentials(url)[:300] for url in (one.url, other.url))
        raise ImageError(f"{one.name} is required from two places: {places}.", hint="keep only one of them")
    merged = Requirement(str(one))
    merged.url, merged.marker = one.url or other.url, one.marker and other.marker
    merged.specifier = SpecifierSet() if merged.url else one.specifier & other.specifier
    merged.extras = one.extras | other.extras
    return merged


def _has_bare_skinny(wanted: dict[tuple[str, str], Requirement]) -> bool:
    names = {name for name, _ in wanted}
    return "mlflow-skinny" in names and "pandas" not in names

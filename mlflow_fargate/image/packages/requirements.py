"""Adapts a model's requirements for serving on Linux without a GPU. Pure.

MLflow records what the training machine had: both `tensorflow` and `tensorflow-cpu`, the macOS build, OpenCV with GUI,
all of MLflow. Fixing that saves more bytes than every other optimization of an image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from mlflow_fargate.errors import ImageError
from mlflow_fargate.resolved_model import without_credentials

_TENSORFLOW = {
    "tensorflow",
    "tensorflow-cpu",
    "tensorflow-cpu-aws",
    "tensorflow-gpu",
    "tensorflow-intel",
    "tensorflow-macos",
}
_NO_WINDOWS = "a server does not have the libraries for windows"
_REPLACED = {
    "mlflow": ("mlflow-skinny", "loads models the same way, without the tracking server (about 450 MB)"),
    "opencv-python": ("opencv-python-headless", _NO_WINDOWS),
    "opencv-contrib-python": ("opencv-contrib-python-headless", _NO_WINDOWS),
}
_MACOS_ONLY = {"tensorflow-metal", "jax-metal"}
_INDEX_OPTION = re.compile(r"(-i|--index-url|--extra-index-url)(?:\s+|=)(\S+)")
_COMMENT = re.compile(r"(^|\s)#.*$")


class Normalized(NamedTuple):
    """Lines for uv (index options first, then sorted requirements), and what was changed and why."""

    lines: tuple[str, ...]
    notes: tuple[str, ...]


def normalize(requirements: Sequence[str], *, machine: str, adapt: bool = True) -> Normalized:
    """Adapts requirements for Linux on `machine` (x86_64 or aarch64); raises ImageError for unsupported lines.

    Without `adapt`, packages are not replaced: lines are only parsed, checked, sorted and merged.
    Idempotent.
    """
    options: list[str] = []
    notes: list[str] = []
    wanted: dict[tuple[str, str], Requirement] = {}
    for line in (_COMMENT.sub("", line).strip() for line in requirements):
        if (option := _INDEX_OPTION.fullmatch(line)) and "${" not in line:
            options.append(f"{'--index-url' if option[1] == '-i' else option[1]} {option[2]}")
        elif line:
            asked = _parse(line)
            requirement = _adapted(asked, machine, notes) if adapt else asked
            if requirement:
                key = (requirement.name, str(requirement.marker or ""))
                wanted[key] = _merged(wanted[key], requirement) if key in wanted else requirement
    if adapt and _has_bare_skinny(wanted):
        # mlflow.pyfunc imports pandas, which the slim distribution does not include. A model that does not require
        # pandas itself works with 2, as all releases of MLflow do.
        wanted["pandas", ""] = Requirement("pandas<3")
        notes.append("pandas added: mlflow.pyfunc needs it, and mlflow-skinny does not include it")
    lines = (*dict.fromkeys(options), *sorted(str(requirement) for requirement in wanted.values()))
    return Normalized(lines, tuple(dict.fromkeys(notes)))


def is_index_option(line: str) -> bool:
    """Returns whether a normalized line is an index option, not a package."""
    return line.startswith("--")


def _parse(line: str) -> Requirement:
    shown = without_credentials(line)
    if "${" in line:
        # uv would insert the value: a model could send the user's secrets to any host.
        raise ImageError(
            f"Requirement {shown!r} refers to an environment variable, which is not allowed in a model.",
            hint="set the index with the option index_url or extra_index_urls, where ${NAME} is allowed",
        )
    if line.startswith(("-r", "--requirement", "-c", "--constraint")):
        raise ImageError(f"Requirement {shown!r} refers to another file.", hint="copy its lines into the requirements")
    if line.startswith("-"):
        raise ImageError(
            f"Requirement {shown!r} is an option that is not supported.",
            hint="the only pip options supported are index URLs",
        )
    if line.startswith((".", "/", "~", "file:")) or re.search(r"@\s*file:", line) or re.match(r"[^\[;@]*\.whl$", line):
        raise ImageError(
            f"Requirement {shown!r} is a path on the machine that wrote it.",
            hint="publish the package to an index, or log its code with the model (code_paths)",
        )
    if re.search(r"(^|@\s*)(git|hg|svn|bzr)\+", line):
        raise ImageError(
            f"Requirement {shown!r} is a source distribution.",
            hint="build a wheel and publish it to an index, or use the wheel's https:// URL",
        )
    if " --hash" in line or line.endswith("\\"):
        raise ImageError(f"Requirement {shown!r} contains hashes.", hint="remove them: the lock has its own")
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        raise ImageError(f"Requirement {shown!r} cannot be read: {without_credentials(str(error))}.") from error
    requirement.name = canonicalize_name(requirement.name)
    return requirement


def _adapted(requirement: Requirement, machine: str, notes: list[str]) -> Requirement | None:
    """Returns the requirement, a better one, or None to drop it; adds the reason to `notes`."""
    name = str(requirement.name)
    if name in _MACOS_ONLY:
        notes.append(f"{name} removed: it is for macOS only")
        return None
    if name in _TENSORFLOW and not requirement.url:
        return _tensorflow(requirement, machine, notes)
    replacement, reason = _REPLACED.get(name, (name, ""))
    if replacement == name or requirement.url or (name == "mlflow" and requirement.extras):
        return requirement
    notes.append(f"{name} → {replacement}: {reason}")
    return _renamed(requirement, replacement)


def _tensorflow(requirement: Requirement, machine: str, notes: list[str]) -> Requirement:
    fitting = "tensorflow-cpu" if machine == "x86_64" else "tensorflow"
    if requirement.name != fitting:
        reason = "the same library without GPU code" if machine == "x86_64" else f"the distribution for {machine}"
        notes.append(f"{requirement.name} → {fitting}: {reason}")
    if requirement.extras:
        notes.append(f"{requirement.name}[{','.join(sorted(requirement.extras))}]: extras removed: they are for GPUs")
        requirement.extras = set()
    return _renamed(requirement, fitting)


def _renamed(requirement: Requirement, name: str) -> Requirement:
    renamed = Requirement(str(requirement))
    renamed.name = name
    return renamed


def _merged(one: Requirement, other: Requirement) -> Requirement:
    if one.url and other.url and one.url != other.url:
        raise ImageError(f"{one.name} is required from two URLs.", hint="keep only one of them")
    merged = Requirement(str(one))
    merged.url = one.url or other.url
    merged.specifier = SpecifierSet() if merged.url else one.specifier & other.specifier
    merged.extras = one.extras | other.extras
    return merged


def _has_bare_skinny(wanted: dict[tuple[str, str], Requirement]) -> bool:
    names = {name for name, _ in wanted}
    return "mlflow-skinny" in names and "pandas" not in names

"""The requirements of a model, as they should be for serving it on Linux without a GPU. Pure.

What a training machine writes down is what *it* had: both `tensorflow` and `tensorflow-cpu`, the macOS build, OpenCV
with windows, all of MLflow. Putting that right saves more bytes than everything else done to an image.
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
_NO_WINDOWS = "a server has no windows, nor the libraries for them"
_REPLACED = {
    "mlflow": ("mlflow-skinny", "loads models just the same, without the tracking server (about 450 MB)"),
    "opencv-python": ("opencv-python-headless", _NO_WINDOWS),
    "opencv-contrib-python": ("opencv-contrib-python-headless", _NO_WINDOWS),
}
_MACOS_ONLY = {"tensorflow-metal", "jax-metal"}
_INDEX_OPTION = re.compile(r"(-i|--index-url|--extra-index-url)(?:\s+|=)(\S+)")
_COMMENT = re.compile(r"(^|\s)#.*$")


class Normalized(NamedTuple):
    """Lines for uv (options of indexes first, then sorted requirements), and what was changed and why."""

    lines: tuple[str, ...]
    notes: tuple[str, ...]


def normalize(requirements: Sequence[str], *, machine: str, adapt: bool = True) -> Normalized:
    """The same requirements for Linux on `machine` (x86_64 or aarch64); ImageError for lines that cannot be meant.

    Without `adapt` every package stays what the lines ask for: they are only read, checked, sorted and merged.
    Doing it twice is doing it once.
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
        # mlflow.pyfunc imports pandas, which the slim distribution does not bring. A model that names no pandas of its
        # own works with 2, as all releases of MLflow do.
        wanted["pandas", ""] = Requirement("pandas<3")
        notes.append("pandas added: mlflow.pyfunc needs it, and mlflow-skinny does not bring it")
    lines = (*dict.fromkeys(options), *sorted(str(requirement) for requirement in wanted.values()))
    return Normalized(lines, tuple(dict.fromkeys(notes)))


def is_index_option(line: str) -> bool:
    """Whether a normalized line says where packages come from, instead of which."""
    return line.startswith("--")


def _parse(line: str) -> Requirement:
    shown = without_credentials(line)
    if "${" in line:
        # uv would put the value in: a model could have the deployer's secrets sent to a host of its own.
        raise ImageError(
            f"Requirement {shown!r} asks for a value from the environment, which a model does not get.",
            hint="name the index with the option index_url or extra_index_urls, where ${NAME} is read",
        )
    if line.startswith(("-r", "--requirement", "-c", "--constraint")):
        raise ImageError(f"Requirement {shown!r} names another file.", hint="write its lines into the requirements")
    if line.startswith("-"):
        raise ImageError(
            f"Requirement {shown!r} is an option we cannot follow.",
            hint="of pip's options only index URLs are understood",
        )
    if line.startswith((".", "/", "~", "file:")) or re.search(r"@\s*file:", line) or re.match(r"[^\[;@]*\.whl$", line):
        raise ImageError(
            f"Requirement {shown!r} lies on the machine that wrote it.",
            hint="publish the package to an index, or log its code with the model (code_paths)",
        )
    if re.search(r"(^|@\s*)(git|hg|svn|bzr)\+", line):
        raise ImageError(
            f"Requirement {shown!r} would have to be built from source.",
            hint="build a wheel of it, publish that to an index or give the wheel's https:// URL",
        )
    if " --hash" in line or line.endswith("\\"):
        raise ImageError(f"Requirement {shown!r} carries hashes.", hint="leave them out: the lock has its own")
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        raise ImageError(f"Requirement {shown!r} cannot be read: {without_credentials(str(error))}.") from error
    requirement.name = canonicalize_name(requirement.name)
    return requirement


def _adapted(requirement: Requirement, machine: str, notes: list[str]) -> Requirement | None:
    """What stands in the requirement's place: itself, something better or nothing; the why goes to `notes`."""
    name = str(requirement.name)
    if name in _MACOS_ONLY:
        notes.append(f"{name} left out: it is for macOS only")
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
        notes.append(f"{requirement.name}[{','.join(sorted(requirement.extras))}]: extras left out, they are for GPUs")
        requirement.extras = set()
    return _renamed(requirement, fitting)


def _renamed(requirement: Requirement, name: str) -> Requirement:
    renamed = Requirement(str(requirement))
    renamed.name = name
    return renamed


def _merged(one: Requirement, other: Requirement) -> Requirement:
    if one.url and other.url and one.url != other.url:
        raise ImageError(f"{one.name} is required from two URLs.", hint="leave one of them")
    merged = Requirement(str(one))
    merged.url = one.url or other.url
    merged.specifier = SpecifierSet() if merged.url else one.specifier & other.specifier
    merged.extras = one.extras | other.extras
    return merged


def _has_bare_skinny(wanted: dict[tuple[str, str], Requirement]) -> bool:
    names = {name for name, _ in wanted}
    return "mlflow-skinny" in names and "pandas" not in names

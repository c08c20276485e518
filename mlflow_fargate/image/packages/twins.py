"""Distributions of one library that write the same files: with and without GPU code, with and without a GUI. Pure.

If two of them were installed, each file would be from the one that came last. So an image has one distribution of a
library: the one that a requirement names, else the one without GPU code and GUI.

Not listed, because PyPI has only one distribution: LightGBM, CatBoost, PyTorch (its CPU builds are on its own index).
On ARM, TensorFlow 2.15 and earlier is an empty package that depends on tensorflow-cpu-aws; there, they are not twins.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

_VERSION_OR_BOUND = re.compile(r"^(===?|~=|>=|<=)(\d+)\.(\d+)\.[\w.+]+$")
_NO_GPU = "the same library without GPU code"
_NO_GUI = "the image does not have the libraries for a GUI"


@dataclass(frozen=True)
class Library:
    """The distributions of a library: `best` serves the same as `others`, and writes the same files."""

    best: str
    others: tuple[str, ...]
    reason: str
    parts: tuple[str, ...] = ()  # distributions with some of its files
    first: str = "0"  # the first version of `best`
    machines: tuple[str, ...] = ("x86_64", "aarch64")
    has_own_patches: bool = False  # `best` and `others` have the same minor versions, but not the same patches

    def has(self, versions: SpecifierSet) -> bool:
        """Returns whether `best` can have such a version; False if they are all earlier than its first."""
        first, limits = Version(self.first), [one for one in versions if one.operator in ("==", "===", "<", "<=", "~=")]
        try:
            newest = [(Version(one.version.removesuffix(".*")), one.operator) for one in limits]
        except InvalidVersion:  # after ===, any text is allowed
            return False
        return versions.contains(first) or all(at > first or (at == first and sign != "<") for at, sign in newest)


LIBRARIES = (
    Library("xgboost-cpu", ("xgboost",), _NO_GPU, first="2.1.1"),
    Library(
        "tensorflow-cpu",
        ("tensorflow", "tensorflow-gpu", "tensorflow-intel", "tensorflow-macos", "tensorflow-cpu-aws"),
        _NO_GPU,
        machines=("x86_64",),
    ),
    Library(
        "tensorflow",
        ("tensorflow-cpu", "tensorflow-gpu", "tensorflow-intel", "tensorflow-macos"),
        "the distribution for aarch64",
        machines=("aarch64",),
    ),
    Library(
        "onnxruntime",
        ("onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-training"),
        "the build for CPUs",
    ),
    Library("faiss-cpu", ("faiss-gpu", "faiss-gpu-cu11", "faiss-gpu-cu12"), _NO_GPU, has_own_patches=True),
    Library("opencv-python-headless", ("opencv-python",), _NO_GUI),
    Library(
        "opencv-contrib-python-headless",
        ("opencv-contrib-python",),
        _NO_GUI,
        parts=("opencv-python-headless", "opencv-python"),
    ),
)


def versions_of(best: str, others: SpecifierSet) -> SpecifierSet:
    """Returns the versions of `best` that replace these of its twin: any 1.8 for 1.8.0.2, if their patches differ."""
    if not any(library.best == best and library.has_own_patches for library in LIBRARIES):
        return others
    return SpecifierSet(",".join(_VERSION_OR_BOUND.sub(_without_patch, str(one)) for one in others))


def _without_patch(one: re.Match[str]) -> str:
    sign, major, minor = one.groups()
    if sign == "<=":
        return f"<{major}.{int(minor) + 1}"
    return f">={major}.{minor}" if sign == ">=" else f"=={major}.{minor}.*"


def find_replacements(
    versions: Mapping[str, SpecifierSet], machine: str, *, named: Collection[str] = ()
) -> dict[str, tuple[str, str]]:
    """Returns the distributions to replace → (what replaces them, the reason).

    `versions` maps each distribution to the versions that it can have. Of those in `named`, one of each library stays.
    """
    found: dict[str, tuple[str, str]] = {}
    for library in (one for one in LIBRARIES if machine in one.machines):
        members = [name for name in (library.best, *library.others) if name in versions or name in named]
        best = next((name for name in members if name in named), library.best)
        there = [name for name in (*members, *library.parts) if name in versions and name != best]
        if members and (best in members or all(library.has(versions[name]) for name in there)):
            reason = library.reason if best == library.best else "already in the requirements"
            found |= dict.fromkeys(there, (best, reason))
    return found

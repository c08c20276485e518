"""Compares the installed packages with those that a model was logged with: pickles often load with these only."""

from __future__ import annotations

import pickle
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

_PINNED = re.compile(r"([\w.-]+)(?:\[[^\]]*\])?\s*==\s*([^\s;#]+)")
# What unpickling raises if a class or a module is not as it was.
_OF_PICKLES = (ImportError, AttributeError, TypeError, ValueError, pickle.UnpicklingError)


def describe_other_version(error: Exception, model_dir: Path) -> str:
    """Returns which package has another version than the model's requirements pin; empty if that explains nothing."""
    if not isinstance(error, _OF_PICKLES) or _is_absent(error):
        return ""
    requirements = model_dir / "requirements.txt"
    lines = requirements.read_text(encoding="utf-8").splitlines() if requirements.is_file() else []
    for name, pinned in (match.groups() for match in map(_PINNED.match, lines) if match):
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue  # the image has a lighter one, such as mlflow-skinny
        if installed != pinned:
            return f"{name} {installed} is installed; the model was logged with {pinned}"
    return ""


def _is_absent(error: Exception) -> bool:
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return bool(package) and find_spec(package) is None

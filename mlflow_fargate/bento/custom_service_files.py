"""A custom service.py and the files next to it: code, labels, vocabularies, and requirements.txt.

It is only read here, never run: the packages it needs are only in the image.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.requirement_files import included_lines, split_lines

REQUIREMENTS_FILE = "requirements.txt"
_LIMIT_BYTES = 100 * 10**6  # models do not belong here; they have separate layers
_INSTEAD = {
    "system_packages": "set the option system_packages",
    "resources": "the options cpu and memory size a task",
    "labels": "set the option tags",
    "path_prefix": "routes begin with the deployment's path",
    "cmd": "the image starts the service",
}
_LEFT_OUT = {"__pycache__", "node_modules", "venv", "mlruns", "mlartifacts"}


@dataclass(frozen=True)
class CustomService:
    """The user's code in the image."""

    file: str  # name of the file that defines the BentoML service
    files: Mapping[str, bytes] = field(hash=False, repr=False)  # path relative to its folder → content
    requirements: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()  # settings of @bentoml.service that have no effect, each with what replaces it

    @property
    def digest(self) -> str:
        """16 hex digits that change when any of the files does."""
        digest = sha256()
        for name, content in sorted(self.files.items()):
            digest.update(f"\n{name}\0{len(content)}\0".encode() + content)
        return digest.hexdigest()[:16]


def read_custom_service(file: Path) -> CustomService:
    """Returns the service in `file`, with its folder; raises InvalidOption if it is not a BentoML service.

    Hidden files, links and tools' by-products are left out.
    """
    if not file.is_file():
        raise InvalidOption(
            f"Option service={file}: the file does not exist on this machine.",
            hint="use a file such as path/to/service.py, or a template: image_classifier or pyfunc",
        )
    packages, unused = _read_decorator(_parse_code(file))
    files: dict[str, bytes] = {}
    size_bytes = 0
    for path in _walk(file.parent):
        size_bytes += path.stat().st_size
        if size_bytes > _LIMIT_BYTES:
            raise InvalidOption(
                f"Option service={file}: its folder contains more than {_LIMIT_BYTES / 10**6:g} MB.",
                hint="move the service to a separate folder, and add models with -C models.KEY=URI",
            )
        files[path.relative_to(file.parent).as_posix()] = path.read_bytes()

    def lines_of(name: str) -> list[str] | None:
        return list(split_lines(files[name].decode("utf-8-sig", "replace"))) if name in files else None

    requirements = included_lines([*(lines_of(REQUIREMENTS_FILE) or []), *packages], lines_of)
    return CustomService(file.name, files, tuple(requirements), unused)


def _walk(folder: Path) -> list[Path]:
    found: list[Path] = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _LEFT_OUT)
        paths = (Path(here, name) for name in sorted(names) if not name.startswith("."))
        found += [path for path in paths if path.is_file() and not path.is_symlink()]
    return found


def _read_decorator(tree: ast.Module) -> tuple[list[str], tuple[str, ...]]:
    """Returns the Python packages of the service's `image`, and the settings that have no effect."""
    calls = [
        (getattr(node.func, "attr", None) or getattr(node.func, "id", None), node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]
    named = {keyword.arg for name, call in calls if name == "service" for keyword in call.keywords}
    named |= {name for name, _ in calls if name == "system_packages"}
    texts = [
        ast.literal_eval(one)
        for name, call in calls
        if name == "python_packages"
        for one in call.args
        if isinstance(one, ast.Constant)
    ]
    return [text for text in texts if isinstance(text, str)], tuple(
        f"{setting} of @bentoml.service has no effect: {instead}"
        for setting, instead in _INSTEAD.items()
        if setting in named
    )


def _parse_code(file: Path) -> ast.Module:
    try:
        tree = ast.parse(file.read_bytes(), filename=file.name)
    except (SyntaxError, ValueError) as error:
        raise InvalidOption(f"Option service={file}: {error}.") from error
    if not any("bentoml" in ast.dump(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)):
        raise InvalidOption(
            f"Option service={file}: the file does not import bentoml.",
            hint="define a class with the decorator @bentoml.service",
        )
    return tree

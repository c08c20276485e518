"""Checks the rules of .importlinter on the project's files, laid out as they are installed.

    python tests/support/layers.py     prints each rule, and the imports that break one; then exits with 1

import-linter reads packages, but webhook/, service_template/, onnx_converter/ and examples/ become part of the package
only by setuptools' mapping, and code that is copied into images has no `__init__.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "mlflow_fargate"
NOT_INSTALLED = ("tests", "benchmarks", "build", "dist", "docs")


def installed_folders() -> list[Path]:
    """Returns every folder of the project that has Python files and is installed: the package first."""
    others = sorted(
        folder
        for folder in ROOT.iterdir()
        if folder.is_dir() and folder.name.isidentifier() and folder.name not in (PACKAGE, *NOT_INSTALLED)
    )
    return [ROOT / PACKAGE, *(folder for folder in others if any(folder.rglob("*.py")))]


def lay_out(target: Path) -> None:
    """Copies what is installed to `target`, each folder as part of the package, and makes every folder a package."""
    for folder in installed_folders():
        inside = target / PACKAGE if folder.name == PACKAGE else target / PACKAGE / folder.name
        shutil.copytree(folder, inside, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in {file.parent for file in target.rglob("*.py")}:
        (folder / "__init__.py").touch()


def modules() -> Iterator[str]:
    """Yields the dotted name of every module, as installed."""
    for folder in installed_folders():
        for file in folder.rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts if parts[0] == PACKAGE else (PACKAGE, *parts))
            yield name.removesuffix(".__init__")


def placed() -> Iterator[str]:
    """Yields the packages and modules that a contract of type `layers` puts in a layer."""
    rules = ConfigParser()
    rules.read(ROOT / ".importlinter", "utf-8")
    for section in rules.values():
        if section.get("type") == "layers":
            containers = section.get("containers", "").split() or [""]
            for container in containers:
                for layer in section["layers"].replace("|", " ").replace(":", " ").split():
                    yield f"{container}.{layer.strip('()')}".lstrip(".")


def not_covered(names: Iterable[str]) -> list[str]:
    """Returns the modules that are in no layer. The package itself is above all layers: only examples import it."""
    layers = tuple(placed())
    return sorted(
        name
        for name in names
        if name != PACKAGE and not any(name == layer or name.startswith(f"{layer}.") for layer in layers)
    )


def check(tree: Path) -> subprocess.CompletedProcess[str]:
    """Runs import-linter on a folder that `lay_out` filled, and returns what it printed."""
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo", ROOT / ".importlinter"]
    wide = {**os.environ, "COLUMNS": "300"}  # one line for each import
    return subprocess.run(command, cwd=tree, env=wide, capture_output=True, text=True, check=False)


def main() -> int:
    """Prints import-linter's report; returns its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder))
        done = check(Path(folder))
    print(done.stdout + done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())

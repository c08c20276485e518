"""This package as the content of an image without a model: its files and its dependencies."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from mlflow_fargate.image import Platform

_DISTRIBUTION = "mlflow-fargate"
_PACKAGE = Path(__file__).parents[1]
# Inside the package in an installation, next to it in a checkout.
_PARTS = ("webhook", "service_template")


def copy_package(folder: Path) -> str:
    """Copies this package's files to `folder` as pip would install them, uncompiled; returns their digest."""
    compiled, place = shutil.ignore_patterns("__pycache__"), folder / _PACKAGE.name
    shutil.copytree(_PACKAGE, place, ignore=compiled)
    for part in _PARTS:
        if not (place / part).exists():
            shutil.copytree(_PACKAGE.parent / part, place / part, ignore=compiled)
    _write_metadata(folder)
    digest = sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"\n{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def package_requirements(extra: str, platform: Platform) -> tuple[str, ...]:
    """Returns the package's requirements with `extra` on Linux, pinned to the releases installed here."""
    markers = {
        "extra": extra,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": platform.machine,
    }
    asked = (Requirement(line) for line in importlib.metadata.requires(_DISTRIBUTION) or ())
    return tuple(_line(one) for one in asked if one.marker is None or one.marker.evaluate(markers))


def _write_metadata(folder: Path) -> None:
    """Writes the metadata where MLflow looks up plugins and this package its version."""
    distribution = importlib.metadata.distribution(_DISTRIBUTION)
    place = folder / f"mlflow_fargate-{distribution.version}.dist-info"
    place.mkdir()
    for name, texts in (("METADATA", ("METADATA", "PKG-INFO")), ("entry_points.txt", ("entry_points.txt",))):
        found = next(_texts(distribution, texts))
        (place / name).write_text(found, encoding="utf-8")


def _texts(distribution: importlib.metadata.Distribution, names: tuple[str, ...]) -> Iterator[str]:
    return (text for text in map(distribution.read_text, names) if text is not None)


def _line(requirement: Requirement) -> str:
    try:
        version = Version(importlib.metadata.version(requirement.name))
    except importlib.metadata.PackageNotFoundError:  # belongs to an extra that is not installed here
        return f"{requirement.name}{requirement.specifier}"
    if version.is_devrelease or version.local:  # not in any package index
        return f"{requirement.name}{requirement.specifier}"
    return f"{requirement.name}=={version}"

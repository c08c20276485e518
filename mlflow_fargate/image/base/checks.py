"""Checks, before an image is tagged, that its base has the Python and the libraries that its packages need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.base.base_image import Base, other_python
from mlflow_fargate.image.base.files import BaseFiles
from mlflow_fargate.image.layers.layer import Recipe
from mlflow_fargate.image.oci.image import BaseImage, Manifest
from mlflow_fargate.image.packages.shared_libraries import SharedLibraries, debian_packages, find_missing, find_too_new
from mlflow_fargate.image.packages.uv import make_python_minor
from mlflow_fargate.progress import Progress

MissingLibraries = Literal["error", "note"]


def was_checked(recipes: Iterable[Recipe], base: BaseImage, there: Iterable[Manifest]) -> bool:
    """Returns whether an image in the repository has these layers on this base, so the check can be skipped."""
    keys = [{recipe.key, *recipe.other_keys} for recipe in recipes]
    return any(
        image.annotations.get("org.opencontainers.image.base.digest") == base.manifest_digest
        and all(alternatives & image.own_layers().keys() for alternatives in keys)
        for image in there
    )


def check_base(base: Base, files: BaseFiles, *, python_version: str) -> None:
    """Raises ImageError if Python packages cannot run on the base: no Python of that version, or no glibc."""
    expected = make_python_minor(python_version)
    if files.has_musl:
        raise ImageError(
            f"The base image {base.reference} ({files.system}) uses musl, but packages are built for glibc.",
            hint=f"use a base image with Debian, Ubuntu or another system with glibc, such as python:{expected}-slim",
        )
    # An image that states its version (Docker's official ones do) may contain others as well.
    if base.image.python_minor is None and expected not in files.pythons:
        pythons = " and ".join(f"Python {one}" for one in files.pythons)
        raise other_python(base.reference, pythons or "no Python", expected)


def check_libraries(
    recipes: Sequence[Recipe], base: BaseFiles, *, on_missing: MissingLibraries, progress: Progress
) -> None:
    """Raises ImageError (or notes) what is missing, which packages need it, and what provides it."""
    known = {recipe.name: SharedLibraries.load(recipe.libraries) for recipe in recipes if recipe.libraries}
    unknown = sorted(name for name, libraries in known.items() if libraries is None)
    if unknown:
        progress.note(f"library check skipped for layers built on another machine: {', '.join(unknown)}")
    layers = [libraries for libraries in known.values() if libraries]
    for message, hint in _find_faults(layers, base):
        if on_missing == "error":
            raise ImageError(message, hint=hint)
        progress.note(f"{message} {hint}")


def _find_faults(layers: Sequence[SharedLibraries], base: BaseFiles) -> Iterator[tuple[str, str]]:
    if missing := find_missing(layers, frozenset(base.libraries)):
        yield describe_missing(missing, base)
    if base.glibc and (too_new := find_too_new(layers, base.glibc)):
        yield describe_too_new(too_new, base)


def describe_missing(missing: dict[str, list[str]], base: BaseFiles) -> tuple[str, str]:
    """Returns what is missing, in words, and a hint. Pure."""
    listed = "; ".join(f"{library} (needed by {', '.join(packages)})" for library, packages in missing.items())
    message = f"Missing shared libraries: {listed}. Neither the packages nor the base ({base.system}) provide them."
    if "libc.so.6" in missing:
        return message, "packages from PyPI need glibc: use a Debian base image, such as python:3.11-slim"
    packages = ",".join(debian_packages(missing))
    way_out = f"system_packages={packages}" if packages else "add the Debian packages for them: system_packages=…"
    return message, f"{way_out}, or a base image that has them: base_image=…; missing_libraries=note deploys anyway"


def describe_too_new(versions: dict[str, list[str]], base: BaseFiles) -> tuple[str, str]:
    """Returns which packages need a newer glibc than the base's, in words, and a hint. Pure."""
    listed = "; ".join(f"{version} ({', '.join(packages)})" for version, packages in versions.items())
    message = f"The base image ({base.system}) has glibc {base.glibc}, but packages need {listed}."
    return message, "use a base image with a newer system (base_image=…), or require older versions of these packages"

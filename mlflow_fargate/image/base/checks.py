"""Before an image gets its name: whether its base has the Python and the libraries that its packages need."""

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
    """Whether an image in the repository has these layers on this base, so that there is nothing new to find out."""
    keys = [{recipe.key, *recipe.other_keys} for recipe in recipes]
    return any(
        image.annotations.get("org.opencontainers.image.base.digest") == base.manifest_digest
        and all(alternatives & image.own_layers().keys() for alternatives in keys)
        for image in there
    )


def check_base(base: Base, files: BaseFiles, *, python_version: str) -> None:
    """ImageError when what lies in the base does not suit Python packages: no Python of that version, no glibc."""
    expected = make_python_minor(python_version)
    if files.is_this_machine:
        return
    if files.has_musl:
        raise ImageError(
            f"The base image {base.reference} ({files.system}) has musl as its C library; packages are taken for "
            "glibc.",
            hint=f"use a base image of Debian, Ubuntu or another system with glibc, such as python:{expected}-slim",
        )
    # An image that names its version (Docker's own do) may have others beside it.
    if base.image.python_minor is None and expected not in files.pythons:
        pythons = " and ".join(f"Python {one}" for one in files.pythons)
        raise other_python(base.reference, pythons or "no Python", expected)


def check_libraries(
    recipes: Sequence[Recipe], base: BaseFiles, *, on_missing: MissingLibraries, progress: Progress
) -> None:
    """ImageError (or a note) that names what is missing, which packages need it, and what brings it."""
    offered = base.offered_libraries()
    known = {recipe.name: SharedLibraries.load(recipe.libraries) for recipe in recipes if recipe.libraries}
    unknown = sorted(name for name, libraries in known.items() if libraries is None)
    if offered is None:
        progress.note("what libraries this machine has cannot be told, so it was not checked")
        return
    if unknown:
        progress.note(f"not checked here for libraries of the system: {', '.join(unknown)} (made by another machine)")
    layers = [libraries for libraries in known.values() if libraries]
    for message, hint in _find_faults(layers, base, offered):
        if on_missing == "error":
            raise ImageError(message, hint=hint)
        progress.note(f"{message} {hint}")


def _find_faults(
    layers: Sequence[SharedLibraries], base: BaseFiles, offered: frozenset[str]
) -> Iterator[tuple[str, str]]:
    if missing := find_missing(layers, offered):
        yield describe_missing(missing, base)
    if base.glibc and (too_new := find_too_new(layers, base.glibc)):
        yield describe_too_new(too_new, base)


def describe_missing(missing: dict[str, list[str]], base: BaseFiles) -> tuple[str, str]:
    """What is missing in words, and the way out. Pure."""
    listed = "; ".join(f"{library} (needed by {', '.join(packages)})" for library, packages in missing.items())
    message = f"Neither the packages nor the base image ({base.system}) have {listed}."
    if "libc.so.6" in missing:
        return message, "packages from PyPI need glibc: use a base image of Debian, such as python:3.11-slim"
    packages = ",".join(debian_packages(missing))
    way_out = f"system_packages={packages}" if packages else "system_packages=… with the packages that have them"
    return message, f"{way_out}, or a base image that has them (base_image=…); missing_libraries=note deploys as it is"


def describe_too_new(versions: dict[str, list[str]], base: BaseFiles) -> tuple[str, str]:
    """Which packages want a newer glibc than the base's, and the way out. Pure."""
    listed = "; ".join(f"{version} ({', '.join(packages)})" for version, packages in versions.items())
    message = f"The base image ({base.system}) has glibc {base.glibc}, and packages need {listed}."
    return message, "use a base image of a newer system (base_image=…), or require older versions of these packages"

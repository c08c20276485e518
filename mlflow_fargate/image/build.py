"""Builds an image in a registry without Docker, from a base, packages, the service's code and the model.

    base image ──(registry → registry)──────────────┐
    its standard library ──bytecode──layer──────────┤
    requirements ──lock──→ packages ──layer(s)──────┤
    service's code ─────────────────layer───────────┼──→ manifest ──→ registry
    model ──────────────────────────layer───────────┘

The lock and each layer are looked up before they are created: in the repository (so a new machine neither resolves nor
builds what another one did), then in this machine's cache. The same inputs give the same digest, and then nothing is
uploaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from mlflow_fargate.image.assembly import Assembly, SmokeTest
from mlflow_fargate.image.base.base_image import Base, read_base
from mlflow_fargate.image.base.checks import MissingLibraries, check_base, check_libraries, was_checked
from mlflow_fargate.image.base.files import BaseFiles, read_base_files
from mlflow_fargate.image.base.standard_library import is_uncompiled, make_standard_library_recipe
from mlflow_fargate.image.debian import make_system_recipe
from mlflow_fargate.image.layers.application import make_model_recipes, make_service_recipe
from mlflow_fargate.image.layers.layer import Recipe
from mlflow_fargate.image.oci.image import Manifest
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.packages.lock_file import Lock
from mlflow_fargate.image.packages.lock_record import LockRecords
from mlflow_fargate.image.packages.package_layers import Note, make_package_recipes
from mlflow_fargate.image.packages.uv import find_interpreter
from mlflow_fargate.image.registry.blob_cache import BlobCache
from mlflow_fargate.image.registry.client import Registry
from mlflow_fargate.image.registry.image_store import ImageStore
from mlflow_fargate.image.report import PushedImage
from mlflow_fargate.image.spec import Destination, ImageSpec
from mlflow_fargate.progress import Progress


def build_image(
    spec: ImageSpec,
    destination: Destination,
    *,
    cache: Path,
    progress: Progress,
    base_registry: Registry | None = None,
    missing_libraries: MissingLibraries = "error",
    build_sdists: bool = False,
    smoke_test: SmokeTest | None = None,
) -> PushedImage:
    """Returns the image at its destination. The base is read from `base_registry`, by default its own.

    `smoke_test` is called with the layers of a new image, unpacked on this machine; if it raises, the image is not
    tagged. `build_sdists` allows building packages without wheels here, which runs their code.
    """
    source = base_registry or _registry_of(spec.base, destination.store)
    base = read_base(source, spec.base, platform=spec.platform, python_version=spec.python_version)
    look_into_base = partial(read_base_files, base, cache=cache, progress=progress)
    records = LockRecords(destination.store, destination.repository, spec.platform, spec.compression)
    locked = _lock(spec, records, cache, progress, build_sdists=build_sdists)
    python_packages = make_package_recipes(locked, spec.compression, cache, progress.note, spec.programs)
    packages = [*python_packages, *_system_packages(spec, look_into_base, cache, progress.note)]
    there = [*destination.images(spec.platform), *records.manifests]
    is_checked = was_checked(packages, base.image, there)
    if not is_checked:
        check_base(base, look_into_base(), python_version=spec.python_version)
    library = _standard_library(spec, base, there, None if is_checked else look_into_base, cache, progress.note)
    assembly = Assembly.begin(destination, there, BlobCache(cache), progress)
    recipes = [*library, *packages, *_application(spec)]
    layers, report = assembly.put_layers(recipes, spec.compression, base)
    if not is_checked:
        check_libraries(packages, look_into_base(), on_missing=missing_libraries, progress=progress)
    # Layers that work with added system packages may not work on the base alone.
    fitting = base.image if packages == python_packages else None
    records.keep(locked, layers[: len(library) + len(python_packages)], fitting, progress)
    if smoke_test:
        assembly.pass_smoke_test(smoke_test, layers[len(library) :], len(packages), cache)
    return PushedImage(assembly.publish(spec, layers, base, [recipe.about for recipe in recipes]), report)


def _registry_of(base: Reference, store: ImageStore) -> Registry:
    return store if isinstance(store, Registry) and store.host == base.registry else Registry(base.registry)


def _lock(spec: ImageSpec, records: LockRecords, cache: Path, progress: Progress, *, build_sdists: bool) -> Lock:
    progress.note("locking packages")
    lines = spec.normalized_requirements(progress)
    with progress.waiting("locking packages"):
        locked = records.lock(
            lines, python_version=spec.python_version, cache=cache, indexes=spec.indexes, build_sdists=build_sdists
        )
    if locked.sdists:
        progress.note(f"built from source on this machine, because they have no wheels: {', '.join(locked.sdists)}")
    return locked


def _standard_library(
    spec: ImageSpec,
    base: Base,
    there: Sequence[Manifest],
    look_into_base: Callable[[], BaseFiles] | None,
    cache: Path,
    note: Note,
) -> list[Recipe]:
    """Returns the layer with its bytecode, if the repository has it, or if the base lacks it and it can be made here.

    `look_into_base` is None if an image in the repository has the same base: it then decides.
    """
    version = spec.python_version
    recipe = make_standard_library_recipe(base, version, spec.compression, cache)
    if any(recipe.key in image.own_layers() for image in there):
        return [recipe]
    if look_into_base is None:
        return []
    files = look_into_base()
    if not files.standard_libraries:
        note("the base image's standard library is not in /usr/local/lib, so its bytecode is not added")
    return [recipe] if is_uncompiled(files, version) and find_interpreter(version) else []


def _system_packages(spec: ImageSpec, look_into_base: Callable[[], BaseFiles], cache: Path, note: Note) -> list[Recipe]:
    if not spec.system_packages:
        return []
    recipe = make_system_recipe(
        spec.system_packages,
        look_into_base(),
        platform=spec.platform,
        compression=spec.compression,
        cache=cache,
        note=note,
    )
    return [recipe] if recipe else []


def _application(spec: ImageSpec) -> list[Recipe]:
    """Returns the layers that belong only to this image."""
    models = make_model_recipes(spec.model, spec.further_models, spec.compression) if spec.model else []
    return [make_service_recipe(spec.service, spec.compression), *models]

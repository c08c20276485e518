"""The story: a base by reference, the packages, the service's code, the model: an image in a registry, without Docker.

    base image ──(registry → registry)──────────────┐
    requirements ──lock──→ packages ──layer(s)──────┤
    service's code ─────────────────layer───────────┼──→ manifest ──→ registry
    model ──────────────────────────layer───────────┘

The lock and each layer are looked for before they are made: in the repository (so a machine that has nothing neither
resolves nor builds what another has), then in this machine's cache. The same inputs give the same digest, and then
nothing is sent.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from mlflow_fargate.image.assembly import Assembly, Trial
from mlflow_fargate.image.base.check import check_base, read_base
from mlflow_fargate.image.base.files import read_base_files
from mlflow_fargate.image.base.library_check import MissingLibraries, check_libraries, was_checked
from mlflow_fargate.image.debian import make_system_recipe
from mlflow_fargate.image.layers.application import ModelFiles, make_model_recipes, make_service_recipe
from mlflow_fargate.image.layers.layer import Compression
from mlflow_fargate.image.layers.paths import ENVIRONMENT, SETTINGS
from mlflow_fargate.image.oci.image import Manifest, make_config
from mlflow_fargate.image.oci.platforms import LINUX_AMD64, Platform
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.packages.lock_record import LockRecords
from mlflow_fargate.image.packages.package_layers import make_dependency_recipes
from mlflow_fargate.image.packages.requirements import normalise
from mlflow_fargate.image.packages.uv import PYPI, Indexes
from mlflow_fargate.image.registry.blob_cache import BlobCache
from mlflow_fargate.image.registry.client import Registry
from mlflow_fargate.image.registry.oci_layout import ImageStore
from mlflow_fargate.image.registry.push import Push
from mlflow_fargate.image.report import PushedImage
from mlflow_fargate.progress import Progress

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def build_image(
    *,
    base: Reference,
    requirements: Sequence[str],
    python_version: str,
    service: Path,
    model: ModelFiles | None,
    model_key: str,
    destination: Reference,
    registry: ImageStore,
    cache: Path,
    progress: Progress,
    base_registry: Registry | None = None,
    previous: Reference | None = None,
    platform: Platform = LINUX_AMD64,
    environment: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    created: datetime = EPOCH,
    compression: Compression = Compression.ZSTD,
    bytecode: bool = True,
    adapt_requirements: bool = True,
    further_models: Mapping[str, tuple[ModelFiles, str]] | None = None,
    indexes: Indexes = PYPI,
    missing_libraries: MissingLibraries = "error",
    system_packages: Sequence[str] = (),
    build_sdists: bool = False,
    trial: Trial | None = None,
    entry_point: Sequence[str] | None = None,
    programs: Collection[str] = (),
) -> PushedImage:
    """The image of a service and its model, in the repository of `destination`; `model` None: a service of its own.

    `model_key` has to change when the model's files do; `further_models` have a folder each, named by its key, and a
    model key. `previous` is an image in the same repository whose layers are taken over where they are the same.
    `trial` gets the layers of a new image, unpacked on this machine, with its environment, and raises what speaks
    against it; the image then gets no name in the repository.
    `annotations` stand in its manifest, for whoever sees no more of it.
    `build_sdists` lets packages without wheels be built on this machine, which runs their code.
    Without a tag in `destination` the image is tagged by its own digest. `adapt_requirements`: see `normalise`.
    `entry_point` is the command that the image starts, by default BentoML's; `programs`: see dependencies.py.
    """
    source = base_registry or _source(base, registry)
    base_image = read_base(source, base, platform=platform, python_version=python_version)
    records = LockRecords(registry, destination.repository, platform=platform, compression=compression)
    lines = normalised(requirements, platform, progress, adapt=adapt_requirements)
    locked = records.lock(lines, python_version=python_version, cache=cache, indexes=indexes, build_sdists=build_sdists)
    if locked.sdists:
        progress.note(f"built on this machine, as there are no wheels: {', '.join(locked.sdists)}")
    dependencies = make_dependency_recipes(
        locked, compression, bytecode=bytecode, cache=cache, note=progress.note, programs=programs
    )
    packaged = list(dependencies)
    look_into_base = partial(read_base_files, source, base, base_image, cache=cache, progress=progress)
    if system_packages:
        system = make_system_recipe(
            system_packages,
            look_into_base(),
            platform=platform,
            compression=compression,
            cache=cache,
            note=progress.note,
        )
        packaged += [system] if system else []
    models = [] if model is None else make_model_recipes(model, model_key, further_models or {}, compression)
    recipes = [*packaged, make_service_recipe(service, compression), *models]
    there = [*images_there(registry, destination, previous, platform), *records.manifests]
    is_checked = was_checked(packaged, base_image, there)
    if not is_checked:
        check_base(base, base_image, look_into_base(), python_version=python_version)
    push = Push(registry, destination.repository, present=[blob.digest for image in there for blob in image.blobs])
    assembly = Assembly(registry, destination, there, push, BlobCache(cache), progress)
    layers, report = assembly.put_layers(recipes, compression, base_image, source, base)
    if not is_checked:
        check_libraries(packaged, look_into_base(), on_missing=missing_libraries, progress=progress)
    if isinstance(registry, Registry):  # a layout is the image to take elsewhere, and nothing else
        # What fits the base together with packages of the system need not fit it alone.
        fitting = base_image if packaged == dependencies else None
        records.keep(locked, layers[: len(dependencies)], fitting, progress)
    own = {**ENVIRONMENT, **(environment or {})}
    if trial:
        assembly.try_out(trial, layers, len(packaged), own, cache)
    settings = {**SETTINGS, **({"Entrypoint": list(entry_point)} if entry_point else {})}
    config = make_config(base_image, layers, environment=own, labels=labels or {}, settings=settings, created=created)
    return PushedImage(assembly.publish(config, layers, base_image, base, annotations or {}), report)


def _source(base: Reference, registry: ImageStore) -> Registry:
    return registry if isinstance(registry, Registry) and registry.host == base.registry else Registry(base.registry)


def normalised(requirements: Sequence[str], platform: Platform, progress: Progress, *, adapt: bool) -> tuple[str, ...]:
    lines, notes = normalise(requirements, machine=platform.machine, adapt=adapt)
    for note in notes:
        progress.note(note)
    return lines


def images_there(
    registry: ImageStore, destination: Reference, previous: Reference | None, platform: Platform
) -> list[Manifest]:
    """The images in the repository whose layers may be the ones we want."""
    identifiers = [destination.tag] if destination.tag else []
    if previous and previous.repository == destination.repository:
        identifiers.append(previous.identifier)
    found = (registry.find_manifest(destination.repository, identifier, platform) for identifier in identifiers)
    return [image.manifest for image in found if image]

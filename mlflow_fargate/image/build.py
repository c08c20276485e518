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

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from mlflow_fargate.image.application import ModelFiles, make_model_recipe, make_service_recipe
from mlflow_fargate.image.base import read_base
from mlflow_fargate.image.base_files import read_base_files
from mlflow_fargate.image.blob_cache import BlobCache
from mlflow_fargate.image.debian import make_system_recipe
from mlflow_fargate.image.dependencies import make_dependency_recipes
from mlflow_fargate.image.image import (
    OCI_CONFIG,
    BaseImage,
    Descriptor,
    Layer,
    Manifest,
    digest_of,
    encode_json,
    make_config,
)
from mlflow_fargate.image.layer import Compression, Recipe
from mlflow_fargate.image.layout import ENVIRONMENT, SETTINGS
from mlflow_fargate.image.library_check import MissingLibraries, check_libraries, was_checked
from mlflow_fargate.image.lock_record import LockRecords
from mlflow_fargate.image.oci_layout import ImageStore, OciLayout
from mlflow_fargate.image.packages import PYPI, Indexes
from mlflow_fargate.image.platforms import LINUX_AMD64, Platform
from mlflow_fargate.image.push import Push
from mlflow_fargate.image.reference import Reference
from mlflow_fargate.image.registry import Registry
from mlflow_fargate.image.requirements import normalise
from mlflow_fargate.image.unpacked import Unpacked, unpack_layers
from mlflow_fargate.progress import Progress, format_bytes

Trial = Callable[[Unpacked, Mapping[str, str]], None]

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_CACHE_LIMIT_BYTES = 20 * 10**9
_THREADS = 6


@dataclass(frozen=True)
class LayerReport:
    """What became of one part of the image."""

    name: str
    size_bytes: int  # compressed, as the registry stores it
    origin: str  # 'base', 'built' now, or 'cached' (in the registry or on this machine)
    sent_bytes: int


@dataclass(frozen=True)
class BuildReport:
    """What became of the image's parts, in the order of its layers."""

    layers: tuple[LayerReport, ...]

    def __str__(self) -> str:
        """A line a layer, for people."""
        return "\n".join(
            f"{layer.name}: {format_bytes(layer.size_bytes)}, {layer.origin}, {format_bytes(layer.sent_bytes)} sent"
            for layer in self.layers
        )

    @property
    def size_bytes(self) -> int:
        return sum(layer.size_bytes for layer in self.layers)

    @property
    def sent_bytes(self) -> int:
        return sum(layer.sent_bytes for layer in self.layers)


@dataclass(frozen=True)
class PushedImage:
    """An image in its registry, by digest."""

    reference: Reference
    report: BuildReport


def build_image(
    *,
    base: Reference,
    requirements: Sequence[str],
    python_version: str,
    service: Path,
    model: ModelFiles,
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
    created: datetime = EPOCH,
    compression: Compression = Compression.ZSTD,
    bytecode: bool = True,
    adapt_requirements: bool = True,
    further_models: Mapping[str, tuple[ModelFiles, str]] | None = None,
    indexes: Indexes = PYPI,
    missing_libraries: MissingLibraries = "error",
    system_packages: Sequence[str] = (),
    trial: Trial | None = None,
) -> PushedImage:
    """The image of a service and its model, in the repository of `destination`.

    `model_key` has to change when the model's files do; `further_models` have a folder each, named by its key, and a
    model key. `previous` is an image in the same repository whose layers are taken over where they are the same.
    `trial` gets the layers of a new image, unpacked on this machine, with its environment, and raises what speaks
    against it; the image then gets no name in the repository.
    Without a tag in `destination` the image is tagged by its own digest. `adapt_requirements`: see `normalise`.
    """
    source = base_registry or _source(base, registry)
    base_image = read_base(source, base, platform=platform, python_version=python_version, progress=progress)
    records = LockRecords(registry, destination.repository, platform=platform, compression=compression)
    lines = _normalised(requirements, platform, progress, adapt=adapt_requirements)
    locked = records.lock(lines, python_version=python_version, cache=cache, indexes=indexes)
    dependencies = make_dependency_recipes(locked, compression, bytecode=bytecode, cache=cache, note=progress.note)
    packaged = list(dependencies)
    if system_packages:
        files = read_base_files(source, base, base_image, cache=cache, progress=progress)
        system = make_system_recipe(
            system_packages, files, platform=platform, compression=compression, cache=cache, note=progress.note
        )
        packaged += [system] if system else []
    recipes = [
        *packaged,
        make_service_recipe(service, compression),
        make_model_recipe(model, model_key, compression),
        *(
            make_model_recipe(files, files_key, compression, further=key)
            for key, (files, files_key) in sorted((further_models or {}).items())
        ),
    ]
    there = [*_images_there(registry, destination, previous, platform), *records.manifests]
    push = Push(registry, destination.repository, present=[blob.digest for image in there for blob in image.blobs])
    assembly = _Assembly(registry, destination, there, push, BlobCache(cache), progress)
    layers, report = assembly.put_layers(recipes, compression, base_image, source, base)
    if not was_checked(packaged, base_image, there):
        files = read_base_files(source, base, base_image, cache=cache, progress=progress)
        check_libraries(packaged, files, on_missing=missing_libraries, progress=progress)
    if isinstance(registry, Registry):  # a layout is the image to take elsewhere, and nothing else
        # What fits the base together with packages of the system need not fit it alone.
        fitting = base_image if packaged == dependencies else None
        records.keep(locked, layers[: len(dependencies)], fitting, progress)
    own = {**ENVIRONMENT, **(environment or {})}
    if trial:
        assembly.try_out(trial, layers, len(packaged), own, cache)
    config = make_config(base_image, layers, environment=own, labels=labels or {}, settings=SETTINGS, created=created)
    return PushedImage(assembly.publish(config, layers, base_image, base), report)


def _source(base: Reference, registry: ImageStore) -> Registry:
    return registry if isinstance(registry, Registry) and registry.host == base.registry else Registry(base.registry)


def _normalised(requirements: Sequence[str], platform: Platform, progress: Progress, *, adapt: bool) -> tuple[str, ...]:
    lines, notes = normalise(requirements, machine=platform.machine, adapt=adapt)
    for note in notes:
        progress.note(note)
    return lines


def _images_there(
    registry: ImageStore, destination: Reference, previous: Reference | None, platform: Platform
) -> list[Manifest]:
    """The images in the repository whose layers may be the ones we want."""
    identifiers = [destination.tag] if destination.tag else []
    if previous and previous.repository == destination.repository:
        identifiers.append(previous.identifier)
    found = (registry.find_manifest(destination.repository, identifier, platform) for identifier in identifiers)
    return [image.manifest for image in found if image]


@dataclass(frozen=True)
class _Assembly:
    """One image on its way into the repository: finds or makes its layers, sends what is missing, names the result."""

    registry: ImageStore
    destination: Reference
    there: Sequence[Manifest]
    push: Push
    blobs: BlobCache
    progress: Progress

    def put_layers(
        self,
        recipes: Sequence[Recipe],
        compression: Compression,
        base: BaseImage,
        source: Registry,
        reference: Reference,
    ) -> tuple[list[Layer], BuildReport]:
        """All layers of the image, in the repository when this returns; the base travels while ours are made."""
        base_is_present = all(self.push.is_present(layer.digest) for layer in base.layers)
        with _threads(self.push) as pool:
            making = [pool.submit(self._obtain, recipe, compression) for recipe in recipes]
            copying = [pool.submit(self._copy, layer, source, reference) for layer in base.layers]
            made = [future.result() for future in making]
            sent, base_sent = self._send(pool, made, compression, copying, base_is_present=base_is_present)
        size_bytes = sum(layer.size_bytes for layer in base.layers)
        reports = [LayerReport("base", size_bytes, "base", base_sent)]
        for (_, origin), (layer, sent_bytes) in zip(made, sent, strict=True):
            reports.append(LayerReport(layer.name, layer.size_bytes, origin, sent_bytes))
        self.blobs.trim(_CACHE_LIMIT_BYTES)
        return [layer for layer, _ in sent], BuildReport(tuple(reports))

    def try_out(
        self, trial: Trial, layers: Sequence[Layer], packages: int, environment: Mapping[str, str], cache: Path
    ) -> None:
        """Let `trial` see the layers (the first of which hold packages), unless it has passed these before."""
        key = digest_of(encode_json([[layer.digest for layer in layers], dict(environment)])).removeprefix("sha256:")
        passed = cache / "tried" / key
        if passed.exists():
            return
        with unpack_layers(layers[:packages], layers[packages:], self._open, cache) as unpacked:
            trial(unpacked, {name: unpacked.translate(value) for name, value in environment.items()})
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.touch()

    def publish(self, config: bytes, layers: Sequence[Layer], base: BaseImage, reference: Reference) -> Reference:
        """The image by digest, once its configuration and manifest stand in the repository."""
        manifest = Manifest(
            config=Descriptor(OCI_CONFIG, digest_of(config), len(config)),
            layers=(*base.layers, *(layer.descriptor for layer in layers)),
            annotations={
                "org.opencontainers.image.base.name": str(reference),
                "org.opencontainers.image.base.digest": base.manifest_digest,
            },
        )
        result = self.destination.with_digest(manifest.digest)
        tag = self.destination.tag or f"image-{manifest.digest.removeprefix('sha256:')[:16]}"
        if self.registry.manifest_digest(result.repository, tag) == manifest.digest:
            self.progress.note("the registry has exactly this image already")
            return result
        self.push.send(manifest.config.digest, lambda: [config])
        self.registry.write_manifest(result.repository, tag, manifest)
        return result

    def _obtain(self, recipe: Recipe, compression: Compression) -> tuple[Layer | Recipe, str]:
        """The recipe's layer, from wherever it is least work, and its origin; one to be streamed stays a recipe."""
        keys = (recipe.key, *recipe.other_keys)
        for image in self.there:
            ours = image.own_layers()
            if found := next((ours[key] for key in keys if key in ours), None):
                return found, "cached"
        if cached := self.blobs.find(keys):
            return cached, "cached"
        if known := next((layer for layer in self.blobs.known(keys) if self.push.holds(layer.digest)), None):
            return known, "cached"
        self.progress.note(f"building layer {recipe.name}")
        return (recipe if recipe.is_streamed else self.blobs.build(recipe, compression)), "built"

    def _open(self, layer: Layer) -> Iterator[bytes]:
        # What goes into a layout on this machine was made on it.
        if isinstance(self.registry, OciLayout) or self.blobs.find((layer.key,)):
            return self.blobs.stream(layer)
        return self.registry.stream_blob(self.destination.repository, layer.descriptor)

    def _copy(self, layer: Descriptor, source: Registry, reference: Reference) -> int:
        open_chunks = partial(source.stream_blob, reference.repository, layer)
        mount_from = reference.repository if source.host == self.registry.host else None
        return self.push.send(layer.digest, open_chunks, mount_from=mount_from)

    def _send(
        self,
        pool: ThreadPoolExecutor,
        made: Sequence[tuple[Layer | Recipe, str]],
        compression: Compression,
        copying: Sequence[Future[int]],
        *,
        base_is_present: bool,
    ) -> tuple[list[tuple[Layer, int]], int]:
        """Send what the repository lacks; the layers with the bytes sent for each, and the bytes sent for the base."""
        there = [layer for layer, _ in made if isinstance(layer, Layer) and self.push.is_present(layer.digest)]
        if len(there) == len(made) and base_is_present:
            return [(layer, 0) for layer in there], 0
        text = f"{len(made) - len(there)} of {len(made)} layers to {self.destination.name}"
        with self.progress.transfer(text, None) as advance:
            self.push.show(advance)
            sending = [pool.submit(self._send_layer, layer, compression) for layer, _ in made]
            return [future.result() for future in sending], sum(future.result() for future in copying)

    def _send_layer(self, layer: Layer | Recipe, compression: Compression) -> tuple[Layer, int]:
        if isinstance(layer, Layer):
            return layer, self.push.send(layer.digest, partial(self.blobs.stream, layer))
        streamed, sent_bytes = self.push.stream(layer, compression)
        # Should the rest of this build fail, the next one finds it in the repository.
        self.blobs.remember(streamed)
        return streamed, sent_bytes


@contextmanager
def _threads(push: Push) -> Iterator[ThreadPoolExecutor]:
    """Threads that end soon when one of them, or the user, gives up."""
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            yield pool
        except BaseException:
            push.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise

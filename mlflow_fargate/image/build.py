"""The story: a base by reference, the packages, the service's code, the model: an image in a registry, without Docker.

    base image ──(registry → registry)──────────────┐
    requirements ──lock──→ packages ──layer─────────┤
    service's code ─────────────────layer───────────┼──→ manifest ──→ registry
    model ──────────────────────────layer───────────┘

Each layer is looked for before it is made: in the images that stand in the repository (so a machine that has nothing
makes nothing), then in this machine's cache. The same inputs give the same digest, and then nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from mlflow_fargate.image.image import OCI_CONFIG, BaseImage, Descriptor, Layer, Manifest, digest_of, make_config
from mlflow_fargate.image.layer import Compression, Recipe
from mlflow_fargate.image.layout import ENVIRONMENT, SETTINGS
from mlflow_fargate.image.library_check import MissingLibraries, check_libraries, was_checked
from mlflow_fargate.image.packages import PYPI, Indexes, lock
from mlflow_fargate.image.platforms import LINUX_AMD64, Platform
from mlflow_fargate.image.push import Push
from mlflow_fargate.image.reference import Reference
from mlflow_fargate.image.registry import Registry
from mlflow_fargate.image.requirements import normalise
from mlflow_fargate.progress import Progress, format_bytes

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
    registry: Registry,
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
) -> PushedImage:
    """The image of a service and its model, in the repository of `destination`.

    `model_key` has to change when the model's files do; `further_models` have a folder each, named by its key, and a
    model key. `previous` is an image in the same repository whose layers are taken over where they are the same.
    Without a tag in `destination` the image is tagged by its own digest. `adapt_requirements`: see `normalise`.
    """
    source = base_registry or (registry if registry.host == base.registry else Registry(base.registry))
    base_image = read_base(source, base, platform=platform, python_version=python_version, progress=progress)
    lines, notes = normalise(requirements, machine=platform.machine, adapt=adapt_requirements)
    for note in notes:
        progress.note(note)
    locked = lock(lines, python_version=python_version, platform=platform, cache=cache, indexes=indexes)
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
    assembly = _begin(registry, destination, previous, platform=platform, cache=cache, progress=progress)
    layers, report = assembly.put_layers(recipes, compression, base_image, source, base)
    if not was_checked(packaged, base_image, assembly.there):
        files = read_base_files(source, base, base_image, cache=cache, progress=progress)
        check_libraries(packaged, files, on_missing=missing_libraries, progress=progress)
    own = {**ENVIRONMENT, **(environment or {})}
    config = make_config(base_image, layers, environment=own, labels=labels or {}, settings=SETTINGS, created=created)
    return PushedImage(assembly.publish(config, layers, base_image, base), report)


def _begin(
    registry: Registry,
    destination: Reference,
    previous: Reference | None,
    *,
    platform: Platform,
    cache: Path,
    progress: Progress,
) -> _Assembly:
    """An assembly that knows the images in the repository whose layers may be the ones we want."""
    identifiers = [destination.tag] if destination.tag else []
    if previous and previous.repository == destination.repository:
        identifiers.append(previous.identifier)
    found = (registry.find_manifest(destination.repository, identifier, platform) for identifier in identifiers)
    there = [image.manifest for image in found if image]
    push = Push(registry, destination.repository, present=[blob.digest for image in there for blob in image.blobs])
    return _Assembly(registry, destination, there, push, BlobCache(cache), progress)


@dataclass(frozen=True)
class _Assembly:
    """One image on its way into the repository: finds or makes its layers, sends what is missing, names the result."""

    registry: Registry
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
            layers = [layer for layer, _ in made]
            sent, base_sent = self._send(pool, layers, copying, base_is_present=base_is_present)
        size_bytes = sum(layer.size_bytes for layer in base.layers)
        reports = [LayerReport("base", size_bytes, "base", base_sent)]
        for (layer, origin), sent_bytes in zip(made, sent, strict=True):
            reports.append(LayerReport(layer.name, layer.size_bytes, origin, sent_bytes))
        self.blobs.trim(_CACHE_LIMIT_BYTES)
        return layers, BuildReport(tuple(reports))

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

    def _obtain(self, recipe: Recipe, compression: Compression) -> tuple[Layer, str]:
        """The recipe's layer, from wherever it is least work, and its origin."""
        keys = (recipe.key, *recipe.other_keys)
        for image in self.there:
            ours = image.own_layers()
            if found := next((ours[key] for key in keys if key in ours), None):
                return found, "cached"
        if cached := self.blobs.find(keys):
            return cached, "cached"
        self.progress.note(f"building layer {recipe.name}")
        return self.blobs.build(recipe, compression), "built"

    def _copy(self, layer: Descriptor, source: Registry, reference: Reference) -> int:
        open_chunks = partial(source.stream_blob, reference.repository, layer)
        mount_from = reference.repository if source.host == self.registry.host else None
        return self.push.send(layer.digest, open_chunks, mount_from=mount_from)

    def _send(
        self,
        pool: ThreadPoolExecutor,
        layers: Sequence[Layer],
        copying: Sequence[Future[int]],
        *,
        base_is_present: bool,
    ) -> tuple[list[int], int]:
        """Send what the repository lacks; the bytes sent for each layer, and for the base."""
        missing = [layer for layer in layers if not self.push.is_present(layer.digest)]
        if not missing and base_is_present:
            return [0] * len(layers), 0
        text = f"{len(missing)} of {len(layers)} layers to {self.destination.name}"
        with self.progress.transfer(text, None) as advance:
            self.push.show(advance)
            sending = [pool.submit(self.push.send, layer.digest, partial(self.blobs.stream, layer)) for layer in layers]
            return [future.result() for future in sending], sum(future.result() for future in copying)


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

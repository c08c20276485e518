"""Assembles one image in a repository: finds or builds its layers, uploads missing ones, tests and tags the image.

    recipe ──→ in the repository? ──→ on this machine? ──→ built here, or (a large model) built while uploading

The base is copied meanwhile. `build.py` decides what goes into the image; `push.py` uploads blobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlflow_fargate.image.base.base_image import Base
from mlflow_fargate.image.layers.layer import Compression, Recipe
from mlflow_fargate.image.layers.paths import ENVIRONMENT
from mlflow_fargate.image.layers.unpack import Unpacked, unpack_layers
from mlflow_fargate.image.oci.image import (
    OCI_ANNOTATION,
    OCI_CONFIG,
    Descriptor,
    Layer,
    Manifest,
    encode_json,
    make_config,
    sha256_digest,
)
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.registry.blob_cache import BlobCache
from mlflow_fargate.image.registry.push import Push
from mlflow_fargate.image.report import BuildReport, LayerReport
from mlflow_fargate.image.spec import Destination, ImageSpec
from mlflow_fargate.progress import Progress

SmokeTest = Callable[[Unpacked, Mapping[str, str]], None]
"""Called with the unpacked layers and the environment; raises if the service does not work."""

_CACHE_LIMIT_BYTES = 20 * 10**9
_THREADS = 6


@dataclass(frozen=True)
class Assembly:
    """One image being assembled: finds or builds its layers, uploads what is missing, tags the result."""

    destination: Destination
    there: Sequence[Manifest]
    push: Push
    blobs: BlobCache
    progress: Progress

    @classmethod
    def begin(
        cls, destination: Destination, there: Sequence[Manifest], blobs: BlobCache, progress: Progress
    ) -> Assembly:
        """Uploads nothing yet; `there` are images in the repository whose layers can be reused."""
        present = [blob.digest for image in there for blob in image.blobs]
        push = Push(destination.store, destination.repository, present=present)
        return cls(destination, there, push, blobs, progress)

    def put_layers(
        self, recipes: Sequence[Recipe], compression: Compression, base: Base
    ) -> tuple[list[Layer], BuildReport]:
        """Returns all layers, which are then in the repository; copies the base while building the others."""
        base_is_present = all(self.push.is_present(layer.digest) for layer in base.image.layers)
        with _threads(self.push) as pool:
            making = [pool.submit(self._obtain, recipe, compression) for recipe in recipes]
            copying = [pool.submit(self._copy, layer, base) for layer in base.image.layers]
            with self.progress.waiting("building layers"):
                made = [future.result() for future in making]
            sent, base_sent = self._send(pool, made, compression, copying, base_is_present=base_is_present)
        size_bytes = sum(layer.size_bytes for layer in base.image.layers)
        reports = [LayerReport("base", size_bytes, "base", base_sent)]
        for (_, origin), (layer, sent_bytes) in zip(made, sent, strict=True):
            reports.append(LayerReport(layer.name, layer.size_bytes, origin, sent_bytes))
        self.blobs.trim(_CACHE_LIMIT_BYTES)
        return [layer for layer, _ in sent], BuildReport(tuple(reports))

    def pass_smoke_test(self, smoke_test: SmokeTest, layers: Sequence[Layer], packages: int, cache: Path) -> None:
        """Tests the layers (the first `packages` of them contain packages), unless they have passed before."""
        key = sha256_digest(encode_json([[layer.digest for layer in layers], ENVIRONMENT])).removeprefix("sha256:")
        passed = cache / "smoke-tested" / key
        if passed.exists():
            return
        with unpack_layers(layers[:packages], layers[packages:], self._open, cache) as unpacked:
            smoke_test(unpacked, {name: unpacked.translate(value) for name, value in ENVIRONMENT.items()})
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.touch()

    def publish(self, spec: ImageSpec, layers: Sequence[Layer], base: Base, history: Sequence[str]) -> Reference:
        """Uploads configuration and manifest; returns the image by digest. `history` says what is in each layer."""
        config = make_config(
            base.image,
            layers,
            environment=ENVIRONMENT,
            labels=spec.labels,
            settings=spec.settings,
            created=spec.created,
            history=history,
        )
        manifest = Manifest(
            config=Descriptor(OCI_CONFIG, sha256_digest(config), len(config)),
            layers=(*base.image.layers, *(layer.descriptor for layer in layers)),
            annotations={
                **spec.labels,
                f"{OCI_ANNOTATION}base.name": str(base.reference),
                f"{OCI_ANNOTATION}base.digest": base.image.manifest_digest,
            },
        )
        reference, store = self.destination.reference, self.destination.store
        result = reference.with_digest(manifest.digest)
        tag = reference.tag or f"image-{manifest.digest.removeprefix('sha256:')[:16]}"
        if store.manifest_digest(result.repository, tag) == manifest.digest:
            self.progress.note("an identical image is already in the registry")
            return result
        self.push.send(manifest.config.digest, lambda: [config])
        store.write_manifest(result.repository, tag, manifest)
        return result

    def _obtain(self, recipe: Recipe, compression: Compression) -> tuple[Layer | Recipe, str]:
        """Returns the recipe's layer, from the cheapest source, and its origin; one to be streamed stays a recipe."""
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
        if self.blobs.find((layer.key,)):
            return self.blobs.stream(layer)
        return self.destination.store.stream_blob(self.destination.repository, layer.descriptor)

    def _copy(self, layer: Descriptor, base: Base) -> int:
        open_chunks = partial(base.registry.stream_blob, base.reference.repository, layer)
        mount_from = base.reference.repository if base.registry.host == self.destination.store.host else None
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
        """Uploads what is missing; returns the layers with the bytes sent for each, and the bytes sent for the base."""
        there = [layer for layer, _ in made if isinstance(layer, Layer) and self.push.is_present(layer.digest)]
        if len(there) == len(made) and base_is_present:
            return [(layer, 0) for layer in there], 0
        text = f"uploading {len(made) - len(there)} of {len(made)} layers to {self.destination.reference.name}"
        with self.progress.transfer(text, None) as advance:
            self.push.show(advance)
            sending = [pool.submit(self._send_layer, layer, compression) for layer, _ in made]
            return [future.result() for future in sending], sum(future.result() for future in copying)

    def _send_layer(self, layer: Layer | Recipe, compression: Compression) -> tuple[Layer, int]:
        if isinstance(layer, Layer):
            return layer, self.push.send(layer.digest, partial(self.blobs.stream, layer))
        streamed, sent_bytes = self.push.stream(layer, compression)
        # If the rest of this build fails, the next one finds the layer in the repository.
        self.blobs.remember(streamed)
        return streamed, sent_bytes


@contextmanager
def _threads(push: Push) -> Iterator[ThreadPoolExecutor]:
    """Yields a thread pool that stops soon after an error or an interrupt."""
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            yield pool
        except BaseException:
            push.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise

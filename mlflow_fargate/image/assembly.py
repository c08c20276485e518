"""One image on its way into a repository: its layers are found or made, sent where they are missing, tried and named.

    recipe ──→ in the repository? ──→ on this machine? ──→ made here, or (a large model) made while it is sent

The base travels meanwhile. `build.py` tells what goes into the image; how a blob gets there is known by `push.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlflow_fargate.image.layers.layer import Compression, Recipe
from mlflow_fargate.image.layers.unpack import Unpacked, unpack_layers
from mlflow_fargate.image.oci.image import (
    OCI_CONFIG,
    BaseImage,
    Descriptor,
    Layer,
    Manifest,
    digest_of,
    encode_json,
)
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.registry.blob_cache import BlobCache
from mlflow_fargate.image.registry.client import Registry
from mlflow_fargate.image.registry.oci_layout import ImageStore, OciLayout
from mlflow_fargate.image.registry.push import Push
from mlflow_fargate.image.report import BuildReport, LayerReport
from mlflow_fargate.progress import Progress

Trial = Callable[[Unpacked, Mapping[str, str]], None]

_CACHE_LIMIT_BYTES = 20 * 10**9
_THREADS = 6


@dataclass(frozen=True)
class Assembly:
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

    def publish(
        self,
        config: bytes,
        layers: Sequence[Layer],
        base: BaseImage,
        reference: Reference,
        annotations: Mapping[str, str],
    ) -> Reference:
        """The image by digest, once its configuration and manifest stand in the repository."""
        manifest = Manifest(
            config=Descriptor(OCI_CONFIG, digest_of(config), len(config)),
            layers=(*base.layers, *(layer.descriptor for layer in layers)),
            annotations={
                **annotations,
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

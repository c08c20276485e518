"""Caches the layers built on this machine, so that they are not built again.

    {cache}/blobs/sha256/HEX     the compressed layer
    {cache}/layers/KEY.json      the blob of the layer with that key
    {cache}/layers/KEY.lock      held by the process that builds it

Everything here can be deleted at any time. The registry is queried first (assembly.py): this cache matters for layers
whose upload failed, and for a second repository.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock

from mlflow_fargate import atomic_files
from mlflow_fargate.errors import ImageError, RegistryError
from mlflow_fargate.image.layers.layer import Compression, Recipe, iter_file, write_layer
from mlflow_fargate.image.oci.image import Layer
from mlflow_fargate.image.registry.client import verified


class BlobCache:
    """Layers in a directory, by key; several processes can use it at once."""

    def __init__(self, directory: Path) -> None:
        self._blobs = directory / "blobs" / "sha256"
        self._layers = directory / "layers"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._layers.mkdir(parents=True, exist_ok=True)

    def find(self, keys: tuple[str, ...]) -> Layer | None:
        """Returns the first layer here with one of the keys."""
        for layer in self.known(keys):
            with suppress(OSError):
                if self._path(layer).stat().st_size == layer.size_bytes:
                    os.utime(self._path(layer))  # `trim` deletes the least recently used first
                    return layer
        return None

    def known(self, keys: tuple[str, ...]) -> Iterator[Layer]:
        """Yields the layers with one of the keys that were built here; their blobs may be only elsewhere."""
        for key in keys:
            with suppress(OSError, ValueError, TypeError):
                yield Layer(**json.loads((self._layers / f"{key}.json").read_text()))

    def remember(self, layer: Layer) -> None:
        """Records a layer that was built; its blob need not be here."""
        atomic_files.write(self._layers / f"{layer.key}.json", json.dumps(asdict(layer)))

    def build(self, recipe: Recipe, compression: Compression) -> Layer:
        """Builds the layer and caches it; waits if another process is building it, and uses that one."""
        with FileLock(self._layers / f"{recipe.key}.lock"):
            if layer := self.find((recipe.key, *recipe.other_keys)):
                return layer
            with recipe.files() as files, atomic_files.draft(self._blobs) as path:
                with path.open("wb") as stream:
                    layer = write_layer(recipe, files, stream, compression)
                path.replace(self._path(layer))
            self.remember(layer)
        return layer

    def stream(self, layer: Layer) -> Iterator[bytes]:
        """Yields the layer's blob; if it is damaged, deletes it and raises ImageError at its end."""
        try:
            yield from verified(iter_file(self._path(layer)), layer.descriptor, str(self._blobs))
        except RegistryError as error:
            self._path(layer).unlink(missing_ok=True)
            raise ImageError(
                f"The cached layer {layer.name} ({layer.digest}) was damaged and has been deleted.",
                hint="run the command again to rebuild the layer",
            ) from error

    def trim(self, limit_bytes: int) -> None:
        """Deletes the least recently used blobs until the rest is within the limit."""
        total_bytes = 0
        with suppress(FileNotFoundError):  # another process may be trimming as well
            blobs = [(path, path.stat()) for path in self._blobs.iterdir()]
            for path, status in sorted(blobs, key=lambda blob: blob[1].st_mtime, reverse=True):
                total_bytes += status.st_size
                if total_bytes > limit_bytes:
                    path.unlink(missing_ok=True)

    def _path(self, layer: Layer) -> Path:
        return self._blobs / layer.digest.removeprefix("sha256:")

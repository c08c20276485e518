"""The layers that were made on this machine, so that they are not made again.

    {cache}/blobs/sha256/HEX     the compressed layer
    {cache}/layers/KEY.json      which blob the layer with that key is
    {cache}/layers/KEY.lock      held by the process that makes it

Everything here can be deleted at any time. The registry is asked first (assembly.py): this cache matters for layers
whose upload did not succeed, and for a second repository.
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
    """Layers in a directory, by key; several processes may use it at once."""

    def __init__(self, directory: Path) -> None:
        self._blobs = directory / "blobs" / "sha256"
        self._layers = directory / "layers"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._layers.mkdir(parents=True, exist_ok=True)

    def find(self, keys: tuple[str, ...]) -> Layer | None:
        """The first layer that is here with one of the keys."""
        for layer in self.known(keys):
            with suppress(OSError):
                if self._path(layer).stat().st_size == layer.size_bytes:
                    os.utime(self._path(layer))  # `trim` drops what was not used for longest
                    return layer
        return None

    def known(self, keys: tuple[str, ...]) -> Iterator[Layer]:
        """The layers with one of the keys that were made here; their blobs may be elsewhere only."""
        for key in keys:
            with suppress(OSError, ValueError, TypeError):
                yield Layer(**json.loads((self._layers / f"{key}.json").read_text()))

    def remember(self, layer: Layer) -> None:
        """Note a layer that was made; its blob need not be kept here."""
        atomic_files.write(self._layers / f"{layer.key}.json", json.dumps(asdict(layer)))

    def build(self, recipe: Recipe, compression: Compression) -> Layer:
        """Make the layer and keep it; when another process is at it, wait and take its layer."""
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
        """The layer's blob; ImageError at its end when it was damaged, and then it is gone from the cache."""
        try:
            yield from verified(iter_file(self._path(layer)), layer.descriptor, str(self._blobs))
        except RegistryError as error:
            self._path(layer).unlink(missing_ok=True)
            raise ImageError(
                f"The cached layer {layer.name} ({layer.digest}) was damaged and has been dropped.",
                hint="run it again: the layer will be made anew",
            ) from error

    def trim(self, limit_bytes: int) -> None:
        """Drop the blobs that were not used for longest until the rest is within the limit."""
        total_bytes = 0
        with suppress(FileNotFoundError):  # another process may trim too
            blobs = [(path, path.stat()) for path in self._blobs.iterdir()]
            for path, status in sorted(blobs, key=lambda blob: blob[1].st_mtime, reverse=True):
                total_bytes += status.st_size
                if total_bytes > limit_bytes:
                    path.unlink(missing_ok=True)

    def _path(self, layer: Layer) -> Path:
        return self._blobs / layer.digest.removeprefix("sha256:")

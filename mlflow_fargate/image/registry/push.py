"""Uploads blobs to one repository: each at most once, and only if it is missing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

from mlflow_fargate.errors import RegistryError
from mlflow_fargate.image.layers.layer import Compression, Recipe
from mlflow_fargate.image.layers.layer_stream import LayerStream
from mlflow_fargate.image.oci.image import Layer
from mlflow_fargate.image.registry.image_store import ImageStore, OnBytes


class Stopped(RegistryError):
    """Another part of the push failed, so this one stopped."""


class Push:
    """Uploads blobs to `repository` from many threads; `present` are digests known to exist."""

    def __init__(self, registry: ImageStore, repository: str, *, present: Iterable[str]) -> None:
        self._registry = registry
        self._repository = repository
        self._present = set(present)
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._moved_bytes = 0
        self._on_bytes: OnBytes | None = None

    def is_present(self, digest: str) -> bool:
        """Returns whether the blob is known to exist, without a request."""
        return digest in self._present

    def send(self, digest: str, open_chunks: Callable[[], Iterable[bytes]], *, mount_from: str | None = None) -> int:
        """Uploads the blob if it is missing; returns how many bytes were sent."""
        if self.holds(digest):
            return 0
        sent = self._registry.upload_blob(
            self._repository,
            digest,
            lambda: self._until_stopped(open_chunks()),
            mount_from=mount_from,
            on_bytes=self._count,
        )
        self._present.add(digest)
        return sent

    def holds(self, digest: str) -> bool:
        """Returns whether the blob is in the repository; queries the registry if that is unknown."""
        if not self.is_present(digest) and self._registry.has_blob(self._repository, digest):
            self._present.add(digest)
        return self.is_present(digest)

    def stream(self, recipe: Recipe, compression: Compression) -> tuple[Layer, int]:
        """Builds the recipe's layer while uploading it; returns it and how many bytes were sent."""
        stream = LayerStream(recipe, compression)

        def open_chunks() -> Iterator[bytes]:
            return self._until_stopped(stream.restart())

        with closing(stream):
            sent = self._registry.upload_blob(
                self._repository, lambda: stream.layer.digest, open_chunks, on_bytes=self._count
            )
        self._present.add(stream.layer.digest)
        return stream.layer, sent

    def show(self, on_bytes: OnBytes) -> None:
        """Calls `on_bytes` with the bytes sent so far, and from now on with each chunk."""
        with self._lock:
            self._on_bytes = on_bytes
            on_bytes(self._moved_bytes)

    def stop(self) -> None:
        """Stops the running uploads at their next chunk."""
        self._stopped.set()

    def _until_stopped(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self._stopped.is_set():
                raise Stopped("The push was stopped before this layer was uploaded.")
            yield chunk

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            self._moved_bytes += size_bytes
            if self._on_bytes:
                self._on_bytes(size_bytes)

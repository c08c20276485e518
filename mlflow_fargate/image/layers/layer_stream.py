"""A layer that is sent while it is made: no part of it ever lies on disk.

    thread:  files ──tar──→ compressor ──→ a few megabytes of chunks ──→ whoever iterates (the body of an upload)

Its digest is known at the end only, so it cannot be asked for beforehand, and a broken upload makes it anew.
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, Any, cast

from mlflow_fargate.image.layers.layer import Compression, Recipe, write_layer
from mlflow_fargate.image.oci.image import Layer

_CHUNK_BYTES = 1 << 17
_MAX_CHUNKS = 8


class LayerStream:
    """The layer of a recipe as a stream of bytes; `layer` is what the stream that has ended was."""

    def __init__(self, recipe: Recipe, compression: Compression) -> None:
        self._recipe = recipe
        self._compression = compression
        self._making: _Making | None = None

    @property
    def layer(self) -> Layer:
        if not (self._making and self._making.layer):
            raise ValueError("what a layer is, is known when its stream has ended")
        return self._making.layer

    def restart(self) -> Iterator[bytes]:
        """The compressed layer from its first byte, made anew; what goes wrong while it is made is raised here."""
        self.close()
        self._making = making = _Making(self._recipe, self._compression)
        yield from making.chunks()

    def close(self) -> None:
        """End what is being made."""
        if self._making:
            self._making.abandon()


class _Making:
    """One thread that makes the layer, and the few chunks between it and whoever takes them."""

    def __init__(self, recipe: Recipe, compression: Compression) -> None:
        self.layer: Layer | None = None
        self._recipe = recipe
        self._compression = compression
        self._queue: queue.Queue[bytes | None] = queue.Queue(_MAX_CHUNKS)
        self._abandoned = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._make, name=f"layer-{recipe.name}", daemon=True)
        self._thread.start()

    def chunks(self) -> Iterator[bytes]:
        while (chunk := self._queue.get()) is not None:
            yield chunk
        if self._error:
            raise self._error

    def abandon(self) -> None:
        self._abandoned.set()
        while self._thread.is_alive():
            with suppress(queue.Empty):  # makes room for a thread that waits
                self._queue.get(timeout=0.05)

    def _make(self) -> None:
        try:
            with self._recipe.files() as files, io.BufferedWriter(_Writer(self._put), _CHUNK_BYTES) as stream:
                self.layer = write_layer(self._recipe, files, cast("IO[bytes]", stream), self._compression)
        except BaseException as error:  # raised where the chunks are taken
            self._error = error
        finally:
            self._queue.put(None)

    def _put(self, chunk: bytes) -> None:
        if self._abandoned.is_set():
            raise BrokenPipeError("nobody takes the layer any more")
        self._queue.put(chunk)


class _Writer(io.RawIOBase):
    """A file that hands on what is written."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._put(bytes(data))
        return len(data)

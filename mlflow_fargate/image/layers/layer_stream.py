"""Streams a layer while it is being built: no part of it is stored on disk.

    thread:  files ──tar──→ compressor ──→ a few megabytes of chunks ──→ the consumer (the body of an upload)

Its digest is known only at the end, so it cannot be looked up first, and a failed upload rebuilds it.
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
    """A recipe's layer as a stream of bytes; `layer` describes it once the stream has ended."""

    def __init__(self, recipe: Recipe, compression: Compression) -> None:
        self._recipe = recipe
        self._compression = compression
        self._making: _Making | None = None

    @property
    def layer(self) -> Layer:
        if not (self._making and self._making.layer):
            raise ValueError("the layer is known only once its stream has ended")
        return self._making.layer

    def restart(self) -> Iterator[bytes]:
        """Yields the compressed layer from its first byte, rebuilding it; raises errors of the build here."""
        self.close()
        self._making = making = _Making(self._recipe, self._compression)
        yield from making.chunks()

    def close(self) -> None:
        """Stops building."""
        if self._making:
            self._making.abandon()


class _Making:
    """The thread that builds the layer, and the queue of chunks to its consumer."""

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
            with suppress(queue.Empty):  # unblocks a waiting thread
                self._queue.get(timeout=0.05)

    def _make(self) -> None:
        try:
            with self._recipe.files() as files, io.BufferedWriter(_Writer(self._put), _CHUNK_BYTES) as stream:
                self.layer = write_layer(self._recipe, files, cast("IO[bytes]", stream), self._compression)
        except BaseException as error:  # raised to the consumer
            self._error = error
        finally:
            self._queue.put(None)

    def _put(self, chunk: bytes) -> None:
        if self._abandoned.is_set():
            raise BrokenPipeError("the consumer of the layer is gone")
        self._queue.put(chunk)


class _Writer(io.RawIOBase):
    """A file that passes on what is written."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._put(bytes(data))
        return len(data)

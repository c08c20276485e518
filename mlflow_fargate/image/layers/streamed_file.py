"""Files that are added to a layer without being stored here: a large model is read from S3 during the upload."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import IO, cast

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.layers.byte_stream import ChunkReader

_BUFFER_BYTES = 1 << 18


@dataclass(frozen=True)
class StreamedFile:
    """A remote file: its size, and a way to read its bytes from the start, any number of times."""

    size_bytes: int
    chunks: Callable[[], Iterator[bytes]]

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Opens the file; on exit, raises ImageError unless it had exactly `size_bytes`."""
        with closing(self._checked()) as chunks:
            file = cast("IO[bytes]", io.BufferedReader(ChunkReader(chunks), _BUFFER_BYTES))
            yield file
            file.read(1)  # lets the check reach the end

    def _checked(self) -> Generator[bytes, None, None]:
        moved_bytes = 0
        for chunk in self.chunks():
            moved_bytes += len(chunk)
            if moved_bytes > self.size_bytes:
                break
            yield chunk
        if moved_bytes != self.size_bytes:
            raise ImageError(f"A file changed while being read: its size is no longer {self.size_bytes} bytes.")

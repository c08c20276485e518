"""Files that go into a layer without lying on this machine: a model of gigabytes comes from S3 while it is sent."""

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
    """A file somewhere else: its size, and its bytes from the first one each time they are asked for."""

    size_bytes: int
    chunks: Callable[[], Iterator[bytes]]

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The file for reading; ImageError, where it is left, unless exactly its bytes came."""
        with closing(self._checked()) as chunks:
            file = cast("IO[bytes]", io.BufferedReader(ChunkReader(chunks), _BUFFER_BYTES))
            yield file
            file.read(1)  # lets the check see the end

    def _checked(self) -> Generator[bytes, None, None]:
        moved_bytes = 0
        for chunk in self.chunks():
            moved_bytes += len(chunk)
            if moved_bytes > self.size_bytes:
                break
            yield chunk
        if moved_bytes != self.size_bytes:
            raise ImageError(f"A file of {self.size_bytes} bytes had another size when it was read ({moved_bytes}).")

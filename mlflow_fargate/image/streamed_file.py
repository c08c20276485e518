"""Files that go into a layer without lying on this machine: a model of gigabytes comes from S3 while it is sent."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

from mlflow_fargate.errors import ImageError

_BUFFER_BYTES = 1 << 18


@dataclass(frozen=True)
class StreamedFile:
    """A file somewhere else: its size, and its bytes from the first one each time they are asked for."""

    size_bytes: int
    chunks: Callable[[], Iterator[bytes | bytearray]]

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The file for reading; ImageError, where it is left, unless exactly its bytes came."""
        with closing(self._checked()) as chunks:
            file = cast("IO[bytes]", io.BufferedReader(_ChunkReader(chunks), _BUFFER_BYTES))
            yield file
            file.read(1)  # lets the check see the end

    def _checked(self) -> Generator[bytes | bytearray, None, None]:
        moved_bytes = 0
        for chunk in self.chunks():
            moved_bytes += len(chunk)
            if moved_bytes > self.size_bytes:
                break
            yield chunk
        if moved_bytes != self.size_bytes:
            raise ImageError(f"A file of {self.size_bytes} bytes had another size when it was read ({moved_bytes}).")


class _ChunkReader(io.RawIOBase):
    """Chunks of bytes as a file."""

    def __init__(self, chunks: Iterable[bytes | bytearray]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        size_bytes = min(len(buffer), len(self._rest))
        buffer[:size_bytes] = self._rest[:size_bytes]
        self._rest = self._rest[size_bytes:]
        return size_bytes

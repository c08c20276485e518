"""Reads the files of a layer as a stream, also of layers that other tools built."""

from __future__ import annotations

import errno
import gzip
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Any, Generic, NoReturn, TypeVar, cast

import zstandard

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.layers.byte_stream import ChunkReader

_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
# Of all layers of an image, unpacked; the largest images have a tenth of these.
_MAX_ENTRIES = 2_000_000
_MAX_HEADER_BYTES = 64 << 20
_MAX_CONTENT_BYTES = 64 << 30
_NAME_BYTES = 600  # what a name takes in memory beyond its length
# Linux opens no longer path; the depth is a multiple of what any image has.
_MAX_PATH, _MAX_DEPTH = 4096, 200

Kept = TypeVar("Kept")
Member = tuple[str, tarfile.TarInfo, Callable[[], IO[bytes]]]
"""A layer's file: its path in the image, its entry, and what opens it while it is the current one."""


@contextmanager
def open_members(
    blob: Iterator[bytes], media_type: str, shown: str, entries: type[tarfile.TarInfo] | None = None
) -> Iterator[Iterator[Member]]:
    """Yields the layer's files in order, then reads the blob to its end, where size and digest are checked.

    Raises ImageError, which names the layer as `shown`, if it cannot be read. `entries` counts what earlier layers had.
    """
    chunks = cast("IO[bytes]", ChunkReader(blob).buffered())
    try:
        plain = decompressed(chunks, media_type)
        with tarfile.open(fileobj=plain, mode="r|", tarinfo=entries or _bounded_entries()) as archive:
            yield _members(archive)
        while chunks.read(1 << 20):
            pass
    except (tarfile.TarError, EOFError, OSError, RecursionError, zstandard.ZstdError) as error:
        # Others are not the layer's fault: the disk is full, for example.
        if isinstance(error, OSError) and error.errno not in (None, errno.ENAMETOOLONG):
            raise
        raise ImageError(f"{shown} cannot be read: {error}.") from error


class Stack(Generic[Kept]):
    """What is kept of the files in a stack of layers, by path; at most `limit_bytes`, with the names."""

    def __init__(self, limit_bytes: int, size_of: Callable[[Kept], int]) -> None:
        self.files: dict[str, Kept] = {}
        self._left_bytes = self._limit_bytes = limit_bytes
        self._size_of = size_of
        self._entries = _bounded_entries()

    def add(self, blob: Iterator[bytes], media_type: str, shown: str, keep: Callable[..., Kept | None]) -> None:
        """Adds a layer: what `keep` returns for each member, unless it is None. Raises ImageError beyond the limits.

        A whiteout hides what is below its layer, wherever it is in the layer.
        Source: OCI image-spec, layer.md, "Whiteouts".
        """
        with open_members(blob, media_type, shown, self._entries) as members:
            self._apply(members, keep)

    def _apply(self, layer: Iterator[Member], keep: Callable[..., Kept | None]) -> None:
        added: dict[str, Kept] = {}
        hidden: set[str] = set()
        for name, member, content in layer:
            folder, _, file_name = name.rpartition("/")
            if file_name.startswith(".wh."):
                hidden.add(folder if file_name == ".wh..wh..opq" else f"{folder}/{file_name[4:]}".lstrip("/"))
                self._count(name, 0)
            elif (kept := keep(name, member, content)) is not None:
                added[name] = kept
                self._count(name, self._size_of(kept))
        for name in [one for one in self.files if hidden and not hidden.isdisjoint(_with_parents(one))]:
            del self.files[name]
        self.files.update(added)

    def _count(self, name: str, size_bytes: int) -> None:
        self._left_bytes -= _NAME_BYTES + len(name) + size_bytes
        if self._left_bytes < 0:
            raise tarfile.ReadError(f"what is read of the image has more than {self._limit_bytes >> 20} MiB")


def _with_parents(name: str) -> Iterator[str]:
    """Yields the path, and each folder that it is in."""
    yield ""
    yield from (name[: slash.start()] for slash in re.finditer("/", name))
    yield name


def _bounded_entries() -> type[tarfile.TarInfo]:
    """Returns the class of one image's entries; tarfile.ReadError for more than any image needs.

    A few kilobytes can unpack to gigabytes, and tarfile reads headers (long names, pax) into memory as a whole.
    """
    entries = header_bytes = content_bytes = 0

    class Bounded(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Bounded:
            nonlocal entries, header_bytes, content_bytes
            entry = super().frombuf(buf, encoding, errors)
            entries += 1
            content_bytes += entry.size
            header_bytes += entry.size if entry.type in _HEADERS else 0
            if entry.size < 0 or entry.type == tarfile.GNUTYPE_SPARSE:
                raise tarfile.ReadError("it contains a sparse file, or one of a negative size")
            if entries > _MAX_ENTRIES or header_bytes > _MAX_HEADER_BYTES or content_bytes > _MAX_CONTENT_BYTES:
                raise tarfile.ReadError("the image is too large when unpacked, or its entries are")
            return entry

        def _proc_gnusparse_10(self, *_: object) -> NoReturn:  # sparse files in pax headers; called by tarfile
            raise tarfile.ReadError("it contains a sparse file")

    return Bounded


def _members(archive: tarfile.TarFile) -> Iterator[Member]:
    while (member := archive.next()) is not None:
        cast(Any, archive).members.clear()  # tarfile keeps all entries
        if len(member.name) > _MAX_PATH or member.name.count("/") > _MAX_DEPTH:
            raise tarfile.ReadError("it contains a path that is too long or too deep")
        yield str(PurePosixPath(member.name.lstrip("/"))), member, partial(_content_of, archive, member)


def _content_of(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    return archive.extractfile(member) or io.BytesIO()


def decompressed(chunks: IO[bytes], media_type: str) -> IO[bytes]:
    if media_type.endswith("zstd"):
        return cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(chunks, read_across_frames=True))
    return cast("IO[bytes]", gzip.GzipFile(fileobj=chunks)) if media_type.endswith("gzip") else chunks

"""Creates reproducible layers: a plain tar, its compression, and the two digests, in one pass.

Only names, bytes and (optionally) the executable bit of a file matter; times, owners and the order of directory entries
do not. A `Recipe` identifies a layer by its inputs, so an existing layer is found without building it.
Source: OCI image-spec, layer.md.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, cast

import zstandard

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.layers.streamed_file import StreamedFile
from mlflow_fargate.image.oci.image import OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Layer, encode_json, sha256_digest

LAYER_FORMAT = 3  # increase when the bytes of a layer change for the same files
_MAX_NAME_BYTES = 255  # of one part of a path: the limit of ext4 and overlayfs
_BUFFER_BYTES = 1 << 18
_ZSTD_LEVEL = 3
# The size of a compression job, and how much preceding data it uses (7: a quarter of zstd's window); both affect the
# bytes. zstd's default of 8 MiB takes 64 MB of memory with two threads; this takes 12 MB, and 0.7% more bytes.
_ZSTD_JOB_BYTES = 1 << 20
_ZSTD_OVERLAP_LOG = 7
_MAX_ZSTD_THREADS = 2  # half a gigabyte a second, faster than a registry accepts it; each additional one takes 4 MB
_GZIP_LEVEL = 6


Files = Mapping[str, Path | StreamedFile]
"""Path in the image, relative to its root → file here or elsewhere."""


class Compression(str, Enum):
    """zstd unpacks 3.6 times faster at every start; gzip is for tools that do not support zstd (SOCI)."""

    ZSTD = "zstd"
    GZIP = "gzip"

    @property
    def media_type(self) -> str:
        return OCI_LAYER_ZSTD if self is Compression.ZSTD else OCI_LAYER_GZIP


@dataclass(frozen=True)
class Recipe:
    """A layer that may have to be built: `files` is entered only if the layer does not exist yet.

    A layer with one of the `other_keys` is equivalent. `libraries` is where building it saves what its shared libraries
    need (shared_libraries.py). `is_streamed`: its files are too large to store here, so the layer is uploaded while it
    is built.
    """

    name: str
    key: str
    files: Callable[[], AbstractContextManager[Files]]
    other_keys: tuple[str, ...] = ()
    keep_executable: bool = False
    libraries: Path | None = None
    links: bool = False  # one file here under several names becomes hard links
    is_streamed: bool = False
    about: str = ""  # its content in a few words, for the image's history


def make_layer_key(name: str, compression: Compression, **inputs: object) -> str:
    """Returns 64 hex digits that change when the layer's inputs (JSON values) or the layer format do."""
    level = _ZSTD_LEVEL if compression is Compression.ZSTD else _GZIP_LEVEL
    document = {"name": name, "format": LAYER_FORMAT, "codec": f"{compression.value}-{level}", "inputs": inputs}
    return sha256_digest(encode_json(document)).removeprefix("sha256:")


def files_below(directory: Path, prefix: str = "") -> dict[str, Path]:
    """Returns a directory's files by path in the image; raises ImageError if a link points outside the directory.

    Links within the directory become the files they point to.
    """
    root = directory.resolve()
    found: dict[str, Path] = {}
    for parent, directories, names in os.walk(root):
        for name in (*names, *(name for name in directories if Path(parent, name).is_symlink())):
            path = Path(parent, name)
            target = path.resolve() if path.is_symlink() else path
            if not target.is_relative_to(root) or target.is_dir():
                raise ImageError(
                    f"{path} is a link to {target}, which cannot go into the image.",
                    hint=f"copy the file itself into {directory}",
                )
            found[str(PurePosixPath(prefix, path.relative_to(root).as_posix()))] = target
    return found


def write_layer(recipe: Recipe, files: Files, stream: IO[bytes], compression: Compression) -> Layer:
    """Writes the files to `stream` as a compressed tar; returns the layer."""
    write_tar = partial(_write_tar, files, keep_executable=recipe.keep_executable, links=recipe.links)
    return compress_tar(recipe.name, recipe.key, write_tar, stream, compression)


def compress_tar(
    name: str, key: str, write_tar: Callable[[IO[bytes]], None], stream: IO[bytes], compression: Compression
) -> Layer:
    """Compresses what `write_tar` writes to `stream`; returns the layer."""
    compressed = _HashingWriter(stream)
    with _compressor(compressed, compression) as compressor:
        plain = _HashingWriter(compressor)
        write_tar(cast("IO[bytes]", plain))
    return Layer(
        name=name,
        key=key,
        diff_id=plain.digest,
        digest=compressed.digest,
        size_bytes=compressed.tell(),
        media_type=compression.media_type,
    )


class _HashingWriter:
    """Passes bytes through, counting and hashing them."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    def write(self, data: bytes) -> int:
        self._stream.write(data)
        self._hash.update(data)
        self._size_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        self._stream.flush()

    def tell(self) -> int:
        return self._size_bytes

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def _compressor(stream: _HashingWriter, compression: Compression) -> AbstractContextManager[IO[bytes]]:
    sink = cast("IO[bytes]", stream)
    if compression is Compression.GZIP:
        gzipped = gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=sink, mtime=0)
        return cast("AbstractContextManager[IO[bytes]]", gzipped)
    # The bytes do not depend on the number of threads, except 0, which splits the input differently.
    threads = min(_MAX_ZSTD_THREADS, max(1, os.cpu_count() or 1))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _ZSTD_LEVEL, threads=threads, job_size=_ZSTD_JOB_BYTES, overlap_log=_ZSTD_OVERLAP_LOG
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    return cast("AbstractContextManager[IO[bytes]]", compressor.stream_writer(sink, closefd=False))


def _write_tar(files: Files, stream: IO[bytes], *, keep_executable: bool, links: bool) -> None:
    directories: set[PurePosixPath] = set()
    written: dict[Path | StreamedFile, str] = {}
    with tarfile.TarFile(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, copybufsize=_BUFFER_BYTES) as tar:
        for name in sorted(files):
            path = checked_name(name)
            for parent in reversed(path.parents[:-1]):
                if parent not in directories:
                    directories.add(parent)
                    tar.addfile(_entry(str(parent), tarfile.DIRTYPE, 0o755))
            source = files[name]
            if links and source in written:
                tar.addfile(_link(str(path), written[source]))
                continue
            written[source] = str(path)
            entry = _entry(str(path), tarfile.REGTYPE, 0o644)
            with source.open() if isinstance(source, StreamedFile) else _open_regular(source) as file:
                if isinstance(source, StreamedFile):
                    entry.size = source.size_bytes
                else:
                    status = os.fstat(file.fileno())
                    entry.size = status.st_size
                    entry.mode = 0o755 if keep_executable and status.st_mode & 0o100 else entry.mode
                tar.addfile(entry, file)


def _link(name: str, target: str) -> tarfile.TarInfo:
    entry = _entry(name, tarfile.LNKTYPE, 0o644)
    entry.linkname = target
    return entry


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)  # owner 0, no owner name and time 0 are its defaults
    entry.type = kind
    entry.mode = mode
    return entry


def _open_regular(path: Path) -> IO[bytes]:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{path} is not a regular file, so it cannot go into the image.")
    return path.open("rb")


def checked_name(name: str) -> PurePosixPath:
    """Returns the name as a path within the image's root; raises ImageError for any other path."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise ImageError(f"The file name {name!r} is not UTF-8, so it cannot go into the image.") from error
    parts = name.split("/")
    if name.startswith("/") or b"\0" in encoded or {"", ".", ".."} & set(parts):
        raise ImageError(f"The file name {name!r} is not a relative path within the image.")
    if any(len(part.encode()) > _MAX_NAME_BYTES for part in parts):
        raise ImageError(f"A part of the file name {name!r} is longer than {_MAX_NAME_BYTES} bytes.")
    return PurePosixPath(name)


def digest_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    for chunk in iter_file(path):
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def iter_file(path: Path) -> Iterator[bytes]:
    """Yields the file's bytes in chunks."""
    with path.open("rb") as file:
        while chunk := file.read(_BUFFER_BYTES):
            yield chunk

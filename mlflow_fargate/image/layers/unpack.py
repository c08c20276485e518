"""An image's own layers, unpacked on this machine, to be tested before the image gets its name.

    {cache}/smoke-test/HEX/     the layers with packages, kept for the next one (a new version of a model has the same)
    {cache}/smoke-test/….lock   held while they are in use

Only what we write into layers is unpacked: regular files, and hard links between them.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

import zstandard
from filelock import FileLock

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.layers.byte_stream import ChunkReader
from mlflow_fargate.image.layers.paths import MODEL, MODELS, SETTINGS, SITE, SOURCE
from mlflow_fargate.image.oci.image import OCI_LAYER_GZIP, Layer, encode_json, sha256_digest

_PLACES = re.compile(rf"({'|'.join((SITE, SOURCE, MODELS, MODEL))})(?=[/:]|$)")

OpenLayer = Callable[[Layer], Iterator[bytes]]


@dataclass(frozen=True)
class Unpacked:
    """Where the places of an image lie on this machine."""

    packages: Path  # the root of the layers that hold packages
    application: Path  # the root of those with the service and its models

    def translate(self, text: str) -> str:
        """`text` with the image's places replaced by where they lie here."""
        return _PLACES.sub(lambda found: f"{self.packages if found[0] == SITE else self.application}{found[0]}", text)

    @property
    def working_directory(self) -> Path:
        return Path(self.translate(SOURCE))

    @property
    def entry_point(self) -> tuple[str, ...]:
        return tuple(SETTINGS["Entrypoint"])


@contextmanager
def unpack_layers(
    packages: Sequence[Layer], application: Sequence[Layer], open_layer: OpenLayer, cache: Path
) -> Iterator[Unpacked]:
    """The layers, unpacked while the context lasts; one image at a time on this machine."""
    folder = cache / "smoke-test"
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / sha256_digest(encode_json([layer.digest for layer in packages])).removeprefix("sha256:")[:32]
    with FileLock(folder / "smoke-test.lock"), tempfile.TemporaryDirectory(prefix="application-", dir=folder) as name:
        for other in folder.iterdir():
            if other.is_dir() and other not in (root, Path(name)):
                shutil.rmtree(other, ignore_errors=True)
        if not root.exists():
            unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder))
            for layer in packages:
                _unpack(layer, open_layer, unfinished)
            unfinished.rename(root)
        for layer in application:
            _unpack(layer, open_layer, Path(name))
        yield Unpacked(root.resolve(), Path(name).resolve())


def _unpack(layer: Layer, open_layer: OpenLayer, into: Path) -> None:
    """The layer's files below `into`; ImageError for anything that we do not write into layers."""
    chunks = cast("IO[bytes]", ChunkReader(open_layer(layer)).buffered())
    if layer.media_type == OCI_LAYER_GZIP:
        plain = cast("IO[bytes]", gzip.GzipFile(fileobj=chunks))
    else:
        plain = cast("IO[bytes]", zstandard.ZstdDecompressor().stream_reader(chunks, read_across_frames=True))
    with tarfile.open(fileobj=plain, mode="r|") as archive:
        for member in archive:
            path = _place(member.name, into, layer)
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
            elif member.islnk():
                os.link(_place(member.linkname, into, layer), path)
            elif content := archive.extractfile(member) if member.isfile() else None:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                path.chmod(member.mode & 0o755)
            else:
                raise ImageError(f"Layer {layer.name} ({layer.digest}) holds {member.name!r}, which we never write.")


def _place(name: str, into: Path, layer: Layer) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise ImageError(f"Layer {layer.name} ({layer.digest}) holds {name!r}, which leads out of the image.")
    return into.joinpath(*parts)

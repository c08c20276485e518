"""Unpacks an image's own layers on this machine, to test them before the image is tagged.

    {cache}/smoke-test/HEX/     the layers with packages, kept for the next test (a new model version has the same)
    {cache}/smoke-test/….lock   locked while they are in use
    {cache}/smoke-test/….log    what the service wrote in the last test

Only what layer.py writes is unpacked: regular files, and hard links between them.
"""

from __future__ import annotations

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

from filelock import FileLock

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.layers.byte_stream import ChunkReader
from mlflow_fargate.image.layers.members import decompressed
from mlflow_fargate.image.layers.paths import MODEL, MODELS, SETTINGS, SITE, SOURCE
from mlflow_fargate.image.oci.image import Layer, encode_json, sha256_digest

_PLACES = re.compile(rf"({'|'.join((SITE, SOURCE, MODELS, MODEL))})(?=[/:]|$)")

OpenLayer = Callable[[Layer], Iterator[bytes]]


@dataclass(frozen=True)
class Unpacked:
    """Where an image's paths are on this machine."""

    packages: Path  # the root of the layers with packages
    application: Path  # the root of the layers with the service and its models
    log: Path  # kept for the user

    def translate(self, text: str) -> str:
        """Returns `text` with the image's paths replaced by those on this machine."""
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
    """Yields the layers, unpacked temporarily; one image at a time on this machine."""
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
        yield Unpacked(root.resolve(), Path(name).resolve(), folder / "smoke-test.log")


def _unpack(layer: Layer, open_layer: OpenLayer, into: Path) -> None:
    """Unpacks the layer into `into`; raises ImageError for anything that layer.py does not write."""
    chunks = cast("IO[bytes]", ChunkReader(open_layer(layer)).buffered())
    with tarfile.open(fileobj=decompressed(chunks, layer.media_type), mode="r|") as archive:
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
                raise ImageError(f"Layer {layer.name} ({layer.digest}) contains a special file: {member.name!r}.")


def _place(name: str, into: Path, layer: Layer) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise ImageError(f"Layer {layer.name} ({layer.digest}) contains {name!r}, which is outside the image.")
    return into.joinpath(*parts)

"""Images on disk, ready to run: layers pulled by digest from the local registry, unpacked once, joined by hard links.

    STATE/layers/HEX     one unpacked layer; its whiteouts are still files (.wh.NAME)
    STATE/images/HEX     one image's root: its layers on top of each other

Folders are renamed into place when complete, so a killed process leaves no partial layer. Tasks of one image share its
root, and all roots share the layers' files: do not write to them, as with a read-only root file system on Fargate.
Source: OCI image-spec, layer.md (whiteouts), config.md.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import logging
import os
import platform
import shutil
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

import zstandard

from mlflow_fargate.errors import FargateError, LocalStackError
from mlflow_fargate.local.registry.base_image import BASE_LABEL, BASE_LABEL_VALUE, BASE_LAYER_LABEL
from mlflow_fargate.local.registry.grammar import OciRefusal
from mlflow_fargate.local.registry.store import RegistryStore

# Extraction filters came with 3.11.4, and Debian 12 has 3.11.2.
if sys.version_info >= (3, 11, 4):
    import tarfile
else:
    from backports import tarfile  # type: ignore[no-redef]  # mypy only compares the first two numbers of a version

logger = logging.getLogger(__name__)

OUR_LAYER = "io.mlflow-fargate.layer"  # prefix of the annotations on layers built by image/
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_CHUNK_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class CannotPull(LocalStackError):
    """The image cannot be pulled; the message is what ECS writes after 'CannotPullContainerError: '."""


@dataclass(frozen=True)
class PulledImage:
    """An image that is ready to run: unpacked in `root`, with its configuration, or known to a container engine."""

    digest: str
    root: Path = Path("/")
    environment: tuple[tuple[str, str], ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    working_directory: str = "/"
    notes: tuple[str, ...] = ()  # differences from running in a container

    @property
    def python_version(self) -> str | None:
        """Returns the Python version ('3.11.7') as the official Python images declare it; None if not declared."""
        return dict(self.environment).get("PYTHON_VERSION")


class ImageStore:
    """The images of `registry` (whose address in references is `host`), unpacked under `state`."""

    def __init__(self, registry: RegistryStore, host: str, state: Path) -> None:
        self._registry = registry
        self._host = host
        self._layers = state / "layers"
        self._images = state / "images"
        self._lock = threading.Lock()  # of two tasks of one image, the second waits and reuses the files
        for folder in (self._layers, self._images):
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob("*.part-*"):
                shutil.rmtree(leftover, ignore_errors=True)

    def pull(self, image: str) -> PulledImage:
        """Returns the image, unpacked; CannotPull with ECS's message if that fails, OSError if the disk is full."""
        repository, identifier = self._parse(image)
        digest, manifest = self._read_manifest(repository, identifier, image)
        config = self._read_config(repository, manifest, image)
        layers, notes = _layers_to_run(manifest, config)
        with self._lock:
            folders = [self._unpacked(repository, layer["digest"]) for layer in layers]
            root = self._joined(digest, folders)
        settings = config.get("config") or {}
        return PulledImage(
            digest=digest,
            root=root,
            environment=tuple(_pair(entry) for entry in settings.get("Env") or ()),
            entrypoint=tuple(settings.get("Entrypoint") or ()),
            command=tuple(settings.get("Cmd") or ()),
            working_directory=settings.get("WorkingDir") or "/",
            notes=notes,
        )

    def _parse(self, image: str) -> tuple[str, str]:
        """Returns repository, and digest or tag, of HOST/REPOSITORY[:TAG][@DIGEST]."""
        host, _, path = image.partition("/")
        if host != self._host or not path:
            raise CannotPull(
                f"failed to resolve ref {image}: the local stack only runs images from its registry {self._host}"
            )
        name, _, digest = path.partition("@")
        repository, _, tag = name.partition(":")
        return repository, digest or tag or "latest"

    def _read_manifest(self, repository: str, identifier: str, image: str) -> tuple[str, dict[str, Any]]:
        retried = "pull image manifest has been retried 1 time(s)"
        try:
            found = self._registry.manifest(repository, identifier)
            manifest: dict[str, Any] = json.loads(found.body)
            if "manifests" in manifest:
                found = self._registry.manifest(repository, _for_this_machine(manifest["manifests"]))
                manifest = json.loads(found.body)
        except OciRefusal as error:
            raise CannotPull(f"{retried}: failed to resolve ref {image}: {image}: not found") from error
        return found.digest, manifest

    def _read_config(self, repository: str, manifest: Mapping[str, Any], image: str) -> dict[str, Any]:
        try:
            path = self._registry.blob(repository, manifest["config"]["digest"])
            config: dict[str, Any] = json.loads(path.read_bytes())
        except (OciRefusal, OSError, ValueError) as error:
            raise CannotPull(f"failed to read the configuration of {image}: {error}") from error
        return config

    def _unpacked(self, repository: str, digest: str) -> Path:
        folder = self._layers / digest.removeprefix("sha256:")
        if folder.exists():
            return folder
        part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        try:
            unpack_blob(self._registry.blob(repository, digest), part, digest=digest)
        except (FargateError, tarfile.TarError, OSError, EOFError, zstandard.ZstdError) as error:
            shutil.rmtree(part, ignore_errors=True)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            raise CannotPull(f"failed to register layer {digest}: {error}") from error
        part.rename(folder)
        return folder

    def _joined(self, digest: str, layers: list[Path]) -> Path:
        # The layers that run depend on how the base's layers are recognized, which can change for the same image.
        name = hashlib.sha256("\n".join([digest, *(layer.name for layer in layers)]).encode()).hexdigest()
        root = self._images / name
        if root.exists():
            return root
        part = root.with_name(f"{name}.part-{os.getpid()}")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for layer in layers:
            lay_over(layer, part)
        part.rename(root)
        return root


def unpack_blob(blob: Path, folder: Path, *, digest: str) -> None:
    """Unpacks the layer into `folder`; refuses what tarfile's data filter refuses, and bytes with a different digest.

    Nothing is written outside of `folder`: absolute names lose their slash; links to the outside, devices and
    pipes are errors.
    """
    folder.mkdir(parents=True)
    with blob.open("rb") as file:
        counted = _Hashed(file)
        with _decompressed(counted, file) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            archive.extractall(folder, filter="data")
        counted.finish()
    if counted.digest != digest:
        raise CannotPull(f"its bytes hash to {counted.digest}")


def lay_over(layer: Path, root: Path) -> None:
    """Applies `layer` to `root` by OCI's rules: whiteouts delete, files replace, folders merge."""
    for current, folders, files in os.walk(layer):
        below = Path(current)
        above = root / below.relative_to(layer)
        if _OPAQUE in files:
            shutil.rmtree(above, ignore_errors=True)
        _make_folder(above)
        for name in files:
            if name.startswith(_WHITEOUT):
                if name != _OPAQUE:
                    _remove(above / name.removeprefix(_WHITEOUT))
                continue
            _remove(above / name)
            os.link(below / name, above / name, follow_symlinks=False)
        for name in folders:
            # os.walk lists links to folders as folders and does not enter them.
            if (below / name).is_symlink():
                _remove(above / name)
                (above / name).symlink_to((below / name).readlink())


def _layers_to_run(
    manifest: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[list[Mapping[str, Any]], tuple[str, ...]]:
    labels = (config.get("config") or {}).get("Labels") or {}
    layers: list[Mapping[str, Any]] = list(manifest.get("layers") or ())
    if labels.get(BASE_LABEL) == BASE_LABEL_VALUE:
        diff_ids = (config.get("rootfs") or {}).get("diff_ids") or ()
        in_base = labels.get(BASE_LAYER_LABEL)
        return [layer for layer, diff_id in zip_longest(layers, diff_ids) if in_base is None or diff_id != in_base], ()
    ours = [layer for layer in layers if any(key.startswith(OUR_LAYER) for key in layer.get("annotations") or ())]
    if not ours:
        raise CannotPull(
            "this image was not built by mlflow-fargate, so it only runs in a container: start the local stack with "
            "--engine podman or --engine docker"
        )
    note = (
        f"Only {len(ours)} of this image's {len(layers)} layers are used here: those built by mlflow-fargate. This "
        f"machine's files and libraries replace the base image's."
    )
    return ours, (note,)


def _for_this_machine(manifests: list[Mapping[str, Any]]) -> str:
    machine = "arm64" if platform.machine().lower() in ("arm64", "aarch64") else "amd64"
    for child in manifests:
        wanted = child.get("platform") or {}
        if wanted.get("os") == "linux" and wanted.get("architecture") == machine:
            return str(child["digest"])
    raise CannotPull(f"image Manifest does not contain descriptor matching platform 'linux/{machine}'")


def _pair(entry: str) -> tuple[str, str]:
    name, _, value = entry.partition("=")
    return name, value


def _make_folder(path: Path) -> None:
    """Creates a real folder at `path`; replaces a link, so that nothing is ever written through one."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        path.unlink()
    path.mkdir(parents=True, exist_ok=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class _Hashed(io.RawIOBase):
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._file.read(len(buffer))
        self._sha256.update(chunk)
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def finish(self) -> None:
        """Reads the rest of the file: the digest also covers padding after the archive's last block."""
        while chunk := self._file.read(_CHUNK_BYTES):
            self._sha256.update(chunk)

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"


def _decompressed(counted: _Hashed, file: IO[bytes]) -> Any:
    """Returns the decompressed tar stream, by its first bytes: media types can be wrong, magic numbers are not."""
    magic = file.read(4)
    file.seek(0)
    buffered = io.BufferedReader(counted, _CHUNK_BYTES)
    if magic.startswith(_GZIP_MAGIC):
        return gzip.GzipFile(fileobj=buffered, mode="rb")
    if magic == _ZSTD_MAGIC:
        return zstandard.ZstdDecompressor().stream_reader(buffered, read_across_frames=True)
    return buffered

"""Where a model's files lie, and how they come here: three stores with one shape, and which of them a URI means.

`ArtifactStore` is the shape. `LocalArtifacts` reads this machine; `ProxyArtifacts` goes through MLflow's own artifact
repositories (`mlflow-artifacts:/` by the tracking server, and whatever storage MLflow itself can read); S3 has its own
in aws/s3.py, because going there directly is an order faster. resolve.py looks, cache.py downloads.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from typing import Any, Protocol
from urllib.parse import urlsplit

import mlflow
import requests
import stamina
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.file_utils import local_file_uri_to_path

from mlflow_fargate.errors import FargateError, ModelNotFound, ModelUnusable
from mlflow_fargate.progress import Advance
from mlflow_fargate.resolved_model import ModelFile, without_credentials

MAX_FILES = 20_000  # a model has dozens; a bucket's root has millions
_CHUNK_BYTES = 1 << 20


class ArtifactStore(Protocol):
    """Files under a root URI. `path` is relative to the root, as `files` told it."""

    def files(self, root: str, *, recursive: bool = True) -> tuple[ModelFile, ...]:
        """Every file under `root`, sorted by path; empty when nothing is there. Not recursive: those right in it."""

    def read(self, root: str, path: str, limit_bytes: int) -> bytes:
        """The content of a small file; ModelUnusable when it is larger than `limit_bytes`."""

    def download(self, root: str, file: ModelFile, target: Path, advance: Advance) -> None:
        """Writes the file to `target`, whose folder exists; ModelUnusable when it is not the listed one any more."""

    def stream(self, root: str, file: ModelFile) -> Iterator[bytes]:
        """The file's bytes, a few megabytes of it in memory at a time; ModelUnusable as for `download`."""


class ArtifactStores:
    """Picks the store by a URI's scheme. The S3 store is only made when an s3:// URI comes."""

    def __init__(self, *, s3: Callable[[], ArtifactStore], tracking_uri: str | None = None) -> None:
        self._s3 = functools.cache(s3)
        self._proxy = ProxyArtifacts(tracking_uri)
        self._local = LocalArtifacts()

    def for_uri(self, uri: str) -> ArtifactStore:
        """The store that reads `uri`."""
        if is_local(uri):
            return self._local
        return self._s3() if urlsplit(uri).scheme in {"s3", "s3a"} else self._proxy


def is_local(uri: str) -> bool:
    """True for paths and file: URIs; a Windows drive letter is not a scheme."""
    return urlsplit(uri).scheme in {"", "file"} or bool(PureWindowsPath(uri).drive)


def check_paths(files: tuple[ModelFile, ...], root: str) -> None:
    """ModelUnusable unless every path stays below the folder it will be written to, on every system.

    Whoever can write to the artifact store chooses these names.
    """
    folders = {parent for file in files for parent in _parents(file.path)}
    seen: set[str] = set()
    for file in files:
        if _is_hostile(file.path) or file.path in folders or file.path in seen:
            raise ModelUnusable(
                f"{without_credentials(root)} holds a file that cannot be downloaded safely: {file.path!r}.",
                hint="log the model again; a file's name must be a plain relative path",
            )
        seen.add(file.path)


def _is_hostile(path: str) -> bool:
    parts = path.split("/")
    return (
        any(part in {"", ".", ".."} or part.endswith((" ", ".")) for part in parts)
        or "\\" in path
        or bool(re.search(r"[\x00-\x1f\x7f]", path))
        or ":" in parts[0]
        or len(path) > 1024
    )


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[:length]) for length in range(1, len(parts)))


class LocalArtifacts:
    """A folder of this machine. The ETag of a file is its SHA-256, so that an edited model is another model."""

    def files(self, root: str, *, recursive: bool = True) -> tuple[ModelFile, ...]:
        folder = self._folder(root)
        found: list[ModelFile] = []
        for here, folders, names in os.walk(folder):
            for name in folders + names:
                self._refuse_links(Path(here, name))
            for name in names:
                path = Path(here, name)
                found.append(ModelFile(path.relative_to(folder).as_posix(), path.stat().st_size, _sha256(path)))
            if not recursive:
                break
        return tuple(sorted(found, key=lambda file: file.path))

    def read(self, root: str, path: str, limit_bytes: int) -> bytes:
        with (self._folder(root) / path).open("rb") as stream:
            return check_length(stream.read(limit_bytes + 1), path, limit_bytes)

    def download(self, root: str, file: ModelFile, target: Path, advance: Advance) -> None:
        digest = hashlib.sha256()
        with (self._folder(root) / file.path).open("rb") as source, target.open("wb") as copy:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                copy.write(chunk)
                advance(len(chunk))
        if digest.hexdigest() != file.etag:
            raise changed_meanwhile(file.path)

    def stream(self, root: str, file: ModelFile) -> Iterator[bytes]:
        digest = hashlib.sha256()
        with (self._folder(root) / file.path).open("rb") as source:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                yield chunk
        if digest.hexdigest() != file.etag:
            raise changed_meanwhile(file.path)

    @staticmethod
    def _folder(root: str) -> Path:
        return Path(local_file_uri_to_path(root) if root.startswith("file:") else root)

    @staticmethod
    def _refuse_links(path: Path) -> None:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ModelUnusable(
                f"{path} is a link or a special file; a model may hold only files and folders.",
                hint="copy what it points to into the model's folder",
            )


class ProxyArtifacts:
    """Whatever MLflow can read, by MLflow's own code: the tracking server's `mlflow-artifacts:/` above all.

    No ETags there: only paths and sizes.
    """

    def __init__(self, tracking_uri: str | None = None) -> None:
        self._tracking_uri = tracking_uri
        self._repository = functools.cache(self._make_repository)

    def files(self, root: str, *, recursive: bool = True) -> tuple[ModelFile, ...]:
        repository = self._repository(root)
        found: list[ModelFile] = []
        folders: list[str | None] = [None]
        while folders:
            folder = folders.pop()
            with _mlflow_errors(root):
                listed = repository.list_artifacts(folder)
            found += [ModelFile(info.path, info.file_size or 0) for info in listed if not info.is_dir]
            # A folder that names itself would be walked for ever.
            folders += [info.path for info in listed if info.is_dir and recursive and info.path != folder]
            if len(found) + len(folders) > MAX_FILES:
                raise too_many_files(root)
        return tuple(sorted(found, key=lambda file: file.path))

    def read(self, root: str, path: str, limit_bytes: int) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "content")
            self._download(root, path, target)
            with target.open("rb") as stream:
                return check_length(stream.read(limit_bytes + 1), path, limit_bytes)

    def download(self, root: str, file: ModelFile, target: Path, advance: Advance) -> None:
        self._download(root, file.path, target)
        advance(target.stat().st_size)

    def stream(self, root: str, file: ModelFile) -> Iterator[bytes]:
        # MLflow reads files as wholes: this one, and no more of the model, lies on disk meanwhile.
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "content")
            self._download(root, file.path, target)
            with target.open("rb") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    yield chunk

    def _download(self, root: str, path: str, target: Path) -> None:
        # MLflow retries requests, but not a body that breaks off.
        # `_download_file` is what every repository implements; the public call lists before each file.
        for attempt in stamina.retry_context(on=_is_broken_stream, attempts=4):
            with attempt, _mlflow_errors(f"{root}/{path}"):
                self._repository(root)._download_file(path, str(target))

    def _make_repository(self, root: str) -> Any:
        with _mlflow_errors(root):
            return get_artifact_repository(root, tracking_uri=self._tracking_uri or mlflow.get_tracking_uri())


def check_length(content: bytes, path: str, limit_bytes: int) -> bytes:
    """`content`, unless it is longer than what is read of such a file."""
    if len(content) > limit_bytes:
        raise ModelUnusable(f"'{path}' is larger than the {limit_bytes} bytes that are read of it.")
    return content


def changed_meanwhile(path: str) -> ModelUnusable:
    """The error for a file that is not the listed one any more."""
    return ModelUnusable(f"'{path}' changed while the model was read.", hint="try again when the model is written")


def too_many_files(root: str) -> ModelUnusable:
    """The error for a root that cannot be a model's."""
    return ModelUnusable(
        f"{without_credentials(root)} holds more than {MAX_FILES} files.", hint="name the model's own folder"
    )


def _is_broken_stream(error: Exception) -> bool:
    broken = (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)
    return isinstance(error, ModelNotFound) and isinstance(error.__cause__, broken)


@contextlib.contextmanager
def _mlflow_errors(place: str) -> Iterator[None]:
    try:
        yield
    except FargateError:
        raise
    except (MlflowException, requests.RequestException, ImportError) as error:
        said = without_credentials(str(error))[:500]
        raise ModelNotFound(
            f"{without_credentials(place)} could not be read through MLflow: {said}",
            hint="check that the tracking server serves artifacts, and your rights there",
        ) from (error if said == str(error)[:500] else None)  # tracebacks must not tell a password either


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

"""Where a model's files lie, and how they come here: three stores with one shape, and which of them a URI means.

`ArtifactStore` is the shape. `LocalArtifacts` reads this machine; `ServedArtifacts` what the tracking server serves
(`mlflow-artifacts:/`); S3 has its own in aws/s3.py, because going there directly is an order faster. resolve.py looks,
cache.py downloads.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import mlflow
import requests
import stamina
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path

from mlflow_fargate.errors import FargateError, ModelNotFound, ModelUnusable
from mlflow_fargate.model.server import list_artifacts, open_artifact
from mlflow_fargate.model.sources import is_local, path_on_server, scheme_of
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
        self._served = ServedArtifacts(tracking_uri)
        self._local = LocalArtifacts()

    def for_uri(self, uri: str) -> ArtifactStore:
        """The store that reads `uri`; its calls raise UntrustedSource where the tracking server does not serve that."""
        if is_local(uri):
            return self._local
        return self._s3() if scheme_of(uri) in {"s3", "s3a"} else self._served


def check_paths(files: tuple[ModelFile, ...], root: str) -> None:
    """ModelUnusable unless every path stays below the folder it will be written to, on every system.

    Whoever can write to the artifact store chooses these names.
    """
    folders = {parent for file in files for parent in _parents(file.path)}
    seen: set[str] = set()
    for file in files:
        if _is_hostile(file.path) or file.path in folders or file.path in seen:
            raise _unsafe(root, file.path)
        seen.add(file.path)


def _unsafe(root: str, path: str) -> ModelUnusable:
    return ModelUnusable(
        f"{without_credentials(root)} holds a file that cannot be downloaded safely: {path!r}.",
        hint="log the model again; a file's name must be a plain relative path",
    )


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


class ServedArtifacts:
    """What the tracking server serves (`mlflow-artifacts:/` and its http address): requests go to it and nowhere else.

    No ETags there: only paths and sizes.
    """

    def __init__(self, tracking_uri: str | None = None) -> None:
        self._given_uri = tracking_uri

    @property
    def _tracking_uri(self) -> str:
        return self._given_uri or mlflow.get_tracking_uri()

    def files(self, root: str, *, recursive: bool = True) -> tuple[ModelFile, ...]:
        base = path_on_server(root, self._tracking_uri)
        found: list[ModelFile] = []
        folders = [""]
        while folders:
            folder = folders.pop()
            with _mlflow_errors(root):
                listed = _entries(list_artifacts(self._tracking_uri, _joined(base, folder)), folder)
            found += [entry for entry, is_folder in listed if not is_folder]
            folders += [entry.path for entry, is_folder in listed if is_folder and recursive]
            if len(found) + len(folders) > MAX_FILES:
                raise too_many_files(root)
        return tuple(sorted(found, key=lambda file: file.path))

    def read(self, root: str, path: str, limit_bytes: int) -> bytes:
        for attempt in stamina.retry_context(on=_is_broken_stream, attempts=4):
            with attempt, _mlflow_errors(f"{root}/{path}"), self._open(root, path) as answer:
                content = b""
                for chunk in answer.iter_content(_CHUNK_BYTES):
                    content = check_length(content + chunk, path, limit_bytes)
                return content
        raise AssertionError("stamina ends with a result or an exception")

    def download(self, root: str, file: ModelFile, target: Path, advance: Advance) -> None:
        # MLflow retries requests, but not a body that breaks off.
        for attempt in stamina.retry_context(on=_is_broken_stream, attempts=4):
            with attempt, _mlflow_errors(f"{root}/{file.path}"):
                self._download_once(root, file, target)
        advance(target.stat().st_size)

    def stream(self, root: str, file: ModelFile) -> Iterator[bytes]:
        # A body that broke off is requested again, so this file, and no more of the model, is on disk meanwhile.
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "content")
            self.download(root, file, target, lambda size_bytes: None)
            with target.open("rb") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    yield chunk

    def _download_once(self, root: str, file: ModelFile, target: Path) -> None:
        size_bytes = 0
        with self._open(root, file.path) as answer, target.open("wb") as stream:
            for chunk in answer.iter_content(_CHUNK_BYTES):
                size_bytes += len(chunk)
                if size_bytes > file.size_bytes:
                    raise changed_meanwhile(file.path)
                stream.write(chunk)

    def _open(self, root: str, path: str) -> requests.Response:
        return open_artifact(self._tracking_uri, _joined(path_on_server(root, self._tracking_uri), path))


def _entries(answer: Any, folder: str) -> list[tuple[ModelFile, bool]]:
    """Files and folders (True) that the tracking server lists in `folder`."""
    try:
        listed = [
            (ModelFile(_joined(folder, str(entry["path"])), int(entry.get("file_size") or 0)), bool(entry["is_dir"]))
            for entry in answer.get("files", [])
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MlflowException("the server's list of artifacts is not one of MLflow's") from error
    for entry, _ in listed:
        if _is_hostile(entry.path):
            raise _unsafe(folder, entry.path)
    return listed


def _joined(*parts: str) -> str:
    return "/".join(part for part in parts if part)


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
    except (MlflowException, requests.RequestException) as error:
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

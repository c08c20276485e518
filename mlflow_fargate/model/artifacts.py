"""Artifact stores: where a model's files are, how to read them, and which store a URI belongs to.

`ArtifactStore` is the protocol. `LocalArtifacts` reads this machine; `ServedArtifacts` what the tracking server serves
(`mlflow-artifacts:/`); S3 is in aws/s3.py, because direct access is ten times faster. resolve.py lists and reads,
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
from mlflow_fargate.model.server import Note, list_artifacts, open_artifact
from mlflow_fargate.model.sources import is_local, path_on_server, scheme_of
from mlflow_fargate.progress import Advance
from mlflow_fargate.resolved_model import ModelFile, without_credentials

MAX_FILES = 20_000  # a model has dozens; a bucket's root has millions
_CHUNK_BYTES = 1 << 20


class ArtifactStore(Protocol):
    """Files under a root URI. `path` is relative to the root, as returned by `files`."""

    def files(self, root: str, *, recursive: bool = True) -> tuple[ModelFile, ...]:
        """Returns every file under `root`, sorted by path; () if none. Not recursive: only its direct files."""

    def read(self, root: str, path: str, limit_bytes: int) -> bytes:
        """Returns the content of a small file; raises ModelUnusable if it is larger than `limit_bytes`."""

    def download(self, root: str, file: ModelFile, target: Path, advance: Advance) -> None:
        """Writes the file to `target`, whose folder exists; raises ModelUnusable if it changed since it was listed."""

    def stream(self, root: str, file: ModelFile) -> Iterator[bytes]:
        """Yields the file's bytes, with a few megabytes in memory; raises ModelUnusable like `download`."""


def _ignore(_note: str) -> None:
    pass


class ArtifactStores:
    """Picks the store by a URI's scheme. The S3 store is created only for the first s3:// URI."""

    def __init__(self, *, s3: Callable[[], ArtifactStore], tracking_uri: str | None = None) -> None:
        self._s3 = functools.cache(s3)
        self._tracking_uri = tracking_uri
        self._local = LocalArtifacts()

    def for_uri(self, uri: str, note: Note = _ignore) -> ArtifactStore:
        """Returns the store for `uri`; its methods raise UntrustedSource if the tracking server does not serve that.

        `note` is called before each retry of a request to the tracking server.
        """
        if is_local(uri):
            return self._local
        return self._s3() if scheme_of(uri) in {"s3", "s3a"} else ServedArtifacts(self._tracking_uri, note)


def check_paths(files: tuple[ModelFile, ...], root: str) -> None:
    """Raises ModelUnusable unless every path stays inside the folder it will be written to, on every OS.

    Anyone who can write to the artifact store chooses these names.
    """
    folders = {parent for file in files for parent in _parents(file.path)}
    seen: set[str] = set()
    for file in files:
        if _is_hostile(file.path) or file.path in folders or file.path in seen:
            raise _unsafe(root, file.path)
        seen.add(file.path)


def _unsafe(root: str, path: str) -> ModelUnusable:
    return ModelUnusable(
        f"{without_credentials(root)} contains a file that cannot be downloaded safely: {path!r}.",
        hint="log the model again; file names must be plain relative paths",
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
    """A folder on this machine. A file's ETag is its SHA-256, so an edited model counts as a different model."""

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
                f"{path} is a link or a special file; a model can contain only regular files and folders.",
                hint="copy what it points to into the model's folder",
            )


class ServedArtifacts:
    """Artifacts served by the tracking server (`mlflow-artifacts:/` or its http address); sends no other requests.

    The server reports paths and sizes but no ETags.
    """

    def __init__(self, tracking_uri: str | None = None, note: Note = _ignore) -> None:
        self._given_uri = tracking_uri
        self._note = note

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
                listed = _entries(list_artifacts(self._tracking_uri, _joined(base, folder), self._note), folder)
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
        # MLflow retries requests, but not an interrupted body.
        for attempt in stamina.retry_context(on=_is_broken_stream, attempts=4):
            with attempt, _mlflow_errors(f"{root}/{file.path}"):
                self._download_once(root, file, target)
        advance(target.stat().st_size)

    def stream(self, root: str, file: ModelFile) -> Iterator[bytes]:
        # An interrupted body is requested again, so this one file of the model is temporarily on disk.
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
        return open_artifact(self._tracking_uri, _joined(path_on_server(root, self._tracking_uri), path), self._note)


def _entries(answer: Any, folder: str) -> list[tuple[ModelFile, bool]]:
    """Returns the files and folders (True) that the tracking server lists in `folder`."""
    try:
        listed = [
            (ModelFile(_joined(folder, str(entry["path"])), int(entry.get("file_size") or 0)), bool(entry["is_dir"]))
            for entry in answer.get("files", [])
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MlflowException("the server's response is not an MLflow list of artifacts") from error
    for entry, _ in listed:
        if _is_hostile(entry.path):
            raise _unsafe(folder, entry.path)
    return listed


def _joined(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def check_length(content: bytes, path: str, limit_bytes: int) -> bytes:
    """Returns `content`; raises ModelUnusable if it is longer than `limit_bytes`."""
    if len(content) > limit_bytes:
        raise ModelUnusable(f"'{path}' is larger than the limit of {limit_bytes} bytes.")
    return content


def changed_meanwhile(path: str) -> ModelUnusable:
    """Returns the error for a file that changed since it was listed."""
    return ModelUnusable(
        f"'{path}' changed while the model was being read.", hint="try again once the model is fully written"
    )


def too_many_files(root: str) -> ModelUnusable:
    """Returns the error for a folder that is too large to be a model."""
    return ModelUnusable(
        f"{without_credentials(root)} contains more than {MAX_FILES} files.",
        hint="use the URI of the model's own folder",
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
            hint="check that the tracking server serves artifacts (--serve-artifacts) and that you can read them",
        ) from (error if said == str(error)[:500] else None)  # tracebacks must not show a password either


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

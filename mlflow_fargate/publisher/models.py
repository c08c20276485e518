"""Models where they are stored, and on this machine when the image needs their files here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlflow_fargate.image import Model, ModelFiles, StreamedFile
from mlflow_fargate.model import ArtifactStore, ArtifactStores, download_model, resolve_model
from mlflow_fargate.progress import Progress
from mlflow_fargate.resolved_model import ResolvedModel

_LABELS_LIMIT_BYTES = 1 << 20
# Larger models are streamed from their store to the repository; neither files nor a layer are kept on this disk.
_STREAMED_BYTES = 256 * 10**6


@dataclass(frozen=True)
class Models:
    """Models by their URIs."""

    s3: Callable[[], ArtifactStore]
    cache: Path
    progress: Progress

    def resolve(self, uri: str, labels: str | None) -> ResolvedModel:
        """Returns the model that the URI refers to: its version and the location of its files."""
        return resolve_model(uri, stores=self._stores(), progress=self.progress, labels=labels)

    def for_image(self, model: ResolvedModel) -> Model:
        """Returns the files and the key that a layer is built from."""
        return Model(self._files_of(model), model.fingerprint, f"model {model.title}")

    def download(self, model: ResolvedModel) -> Path:
        """Returns the folder with the model's files, which must not be modified."""
        return download_model(model, stores=self._stores(), cache=self.cache, progress=self.progress)

    def read_labels(self, model: ResolvedModel) -> bytes | None:
        """Returns the content of its labels file, or None if there is none."""
        if model.labels_uri is None:
            return None
        root, _, name = model.labels_uri.rpartition("/")
        return self._stores().for_uri(root).read(root, name, _LABELS_LIMIT_BYTES)

    def _files_of(self, model: ResolvedModel) -> ModelFiles:
        if model.size_bytes < _STREAMED_BYTES:
            return lambda: _files_below(self.download(model))
        store, root = self._stores().for_uri(model.artifact_uri), model.artifact_uri
        return {file.path: StreamedFile(file.size_bytes, partial(store.stream, root, file)) for file in model.files}

    def _stores(self) -> ArtifactStores:
        return ArtifactStores(s3=self.s3)


def _files_below(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}

"""Downloads a resolved model to this machine, once: a cache of folders named by the models' fingerprints.

    cache/models/FINGERPRINT/model/…       the model's files as MLflow logged them
    cache/models/FINGERPRINT/labels.json   the labels, if any
    cache/models/FINGERPRINT.lock          one downloader at a time

A folder is either complete or absent: it is filled under another name, then renamed.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock, Timeout

from mlflow_fargate.model.artifacts import ArtifactStore, ArtifactStores, changed_meanwhile, check_paths
from mlflow_fargate.progress import Advance, Progress, format_bytes
from mlflow_fargate.resolved_model import ModelFile, ResolvedModel, without_credentials

DEFAULT_MAX_CACHE_BYTES = 20 * 10**9
_STREAMS = 8
_LABELS_LIMIT_BYTES = 1 << 20
# Another process may still be reading a folder that was returned a moment ago.
_IN_USE_SECONDS = 3600


def download_model(
    model: ResolvedModel,
    *,
    stores: ArtifactStores,
    cache: Path,
    progress: Progress,
    max_cache_bytes: int = DEFAULT_MAX_CACHE_BYTES,
) -> Path:
    """Returns the folder with the model's files, which must not be modified; `labels_file` returns its labels.

    Older entries are deleted when the cache grows over `max_cache_bytes`. Raises ModelUnusable if a file changed since
    it was resolved, or has a name that would be written outside the folder.
    """
    check_paths(model.files, model.artifact_uri)
    entry = cache / "models" / model.fingerprint
    entry.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{entry}.lock"):
        if entry.is_dir():
            progress.note(f"model files are in the cache ({format_bytes(model.size_bytes)})")
        else:
            _fill(model, entry, stores, progress)
        os.utime(entry)
    _evict(entry.parent, keep=entry, max_cache_bytes=max_cache_bytes)
    return entry / "model"


def labels_file(model_folder: Path) -> Path | None:
    """Returns the labels file of a model that `download_model` returned, or None if it has none."""
    labels = model_folder.parent / "labels.json"
    return labels if labels.is_file() else None


def _fill(model: ResolvedModel, entry: Path, stores: ArtifactStores, progress: Progress) -> None:
    partial = entry.with_name(f"{entry.name}.partial")
    if partial.exists():  # left by a process that ended: this one holds the lock
        shutil.rmtree(partial)
    try:
        _download_files(model, stores.for_uri(model.artifact_uri, progress.note), partial / "model", progress)
        if model.labels_uri:
            root, _, name = model.labels_uri.rpartition("/")
            labels = stores.for_uri(root).read(root, name, _LABELS_LIMIT_BYTES)
            (partial / "labels.json").write_bytes(labels)
        partial.rename(entry)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _download_files(model: ResolvedModel, store: ArtifactStore, folder: Path, progress: Progress) -> None:
    for file in model.files:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
    with progress.transfer("model files", model.size_bytes) as advance:
        together = _one_at_a_time(advance)

        def fetch(file: ModelFile) -> None:
            target = folder / file.path
            store.download(model.artifact_uri, file, target, together)
            if target.stat().st_size != file.size_bytes:
                raise changed_meanwhile(f"{without_credentials(model.artifact_uri)}/{file.path}")

        pool = ThreadPoolExecutor(_STREAMS)
        try:
            # Large files first: a large file started last would download alone at the end.
            for _ in pool.map(fetch, sorted(model.files, key=lambda file: -file.size_bytes)):
                pass
        finally:
            pool.shutdown(cancel_futures=True)


def _one_at_a_time(advance: Advance) -> Advance:
    lock = threading.Lock()

    def locked(size_bytes: int) -> None:
        with lock:
            advance(size_bytes)

    return locked


def _evict(folder: Path, *, keep: Path, max_cache_bytes: int) -> None:
    try:
        used_at = {entry: entry.stat().st_mtime for entry in folder.iterdir() if entry.is_dir()}
        sizes = {entry: sum(file.stat().st_size for file in entry.rglob("*") if file.is_file()) for entry in used_at}
    except FileNotFoundError:
        return  # another process is using the cache; the next download checks again
    excess = sum(sizes.values()) - max_cache_bytes
    for entry in sorted(used_at, key=lambda entry: used_at[entry]):
        if excess <= 0:
            return
        if entry != keep and time.time() - used_at[entry] > _IN_USE_SECONDS and _remove(entry):
            excess -= sizes[entry]


def _remove(entry: Path) -> bool:
    try:
        with FileLock(f"{entry.with_suffix('')}.lock", blocking=False):
            # Renamed first, so an interrupted deletion leaves no partial entry under a valid name.
            doomed = entry.with_suffix(".partial")
            if doomed != entry:
                shutil.rmtree(doomed, ignore_errors=True)
                entry.rename(doomed)
            shutil.rmtree(doomed)
    except (Timeout, OSError):
        return False
    return True

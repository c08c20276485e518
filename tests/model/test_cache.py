"""The cache of downloaded models, with a store in memory."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5
from pathlib import Path

import pytest

from mlflow_fargate.errors import ModelUnusable
from mlflow_fargate.model.artifacts import ArtifactStores, check_paths
from mlflow_fargate.model.cache import download_model, labels_file
from mlflow_fargate.progress import Advance, RecordedProgress
from mlflow_fargate.resolved_model import ModelFile, ResolvedModel


class ArtifactsInMemory:
    """A store of path → content for any root; counts downloads."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents
        self.downloads = 0
        self._lock = threading.Lock()

    def files(self, root: str, *, recursive: bool = True) -> tuple[ModelFile, ...]:
        return tuple(
            ModelFile(path, len(content), md5(content).hexdigest()) for path, content in sorted(self.contents.items())
        )

    def read(self, root: str, path: str, limit_bytes: int) -> bytes:
        return self.contents[path]

    def download(self, root: str, file: ModelFile, target: Path, advance: Advance) -> None:
        with self._lock:
            self.downloads += 1
        target.write_bytes(self.contents[file.path])
        advance(len(self.contents[file.path]))


def make_model(store: ArtifactsInMemory, name: str = "one", labels: str | None = None) -> ResolvedModel:
    root = f"s3://bucket/{name}"
    return ResolvedModel(root, root, root, store.files(root), {}, labels_uri=labels and f"{root}/{labels}")


def download(model: ResolvedModel, store: ArtifactsInMemory, cache: Path, max_cache_bytes: int = 10**9) -> Path:
    stores = ArtifactStores(s3=lambda: store)
    return download_model(
        model, stores=stores, cache=cache, progress=RecordedProgress(), max_cache_bytes=max_cache_bytes
    )


def grow_old(folder: Path, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(folder.parent, (moment, moment))


def test_files_and_labels_are_stored_by_fingerprint(tmp_path: Path) -> None:
    store = ArtifactsInMemory({"MLmodel": b"m", "data/deep/weights": b"w" * 10, "labels.json": b"{}"})
    model = make_model(store, labels="labels.json")
    folder = download(model, store, tmp_path)

    assert folder == tmp_path / "models" / model.fingerprint / "model"
    assert (folder / "data/deep/weights").read_bytes() == b"w" * 10
    assert labels_file(folder) == folder.parent / "labels.json"


def test_without_labels_there_is_no_labels_file(tmp_path: Path) -> None:
    store = ArtifactsInMemory({"MLmodel": b"m"})

    assert labels_file(download(make_model(store), store, tmp_path)) is None


def test_two_concurrent_callers_download_once(tmp_path: Path) -> None:
    store = ArtifactsInMemory({"MLmodel": b"m", "weights": b"w"})
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: download(make_model(store), store, tmp_path), range(4)))

    assert len(folders) == 1
    assert store.downloads == 2


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "C:/x",
        "C:x",
        "a\\b",
        "nul\0byte",
        "new\nline",
        ".",
        "a/./b",
        "",
        "a ",
    ],
)
def test_a_path_outside_the_folder_is_refused_before_anything_is_written(tmp_path: Path, path: str) -> None:
    store = ArtifactsInMemory({"MLmodel": b"m", path: b"x"})
    with pytest.raises(ModelUnusable, match="safely"):
        download(make_model(store), store, tmp_path / "cache")

    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("paths", [("a", "a/b"), ("a", "a")])
def test_names_that_collide_are_refused(paths: tuple[str, ...]) -> None:
    with pytest.raises(ModelUnusable, match="safely"):
        check_paths(tuple(ModelFile(path, 1) for path in paths), "s3://bucket/model")


def test_a_file_with_a_wrong_size_leaves_nothing_behind(tmp_path: Path) -> None:
    store = ArtifactsInMemory({"MLmodel": b"m", "weights": b"w"})
    model = make_model(store)
    store.contents["weights"] = b"other"
    with pytest.raises(ModelUnusable, match="changed"):
        download(model, store, tmp_path)

    assert [entry.name for entry in (tmp_path / "models").iterdir() if entry.is_dir()] == []


def test_an_interrupted_download_starts_over(tmp_path: Path) -> None:
    store = ArtifactsInMemory({"MLmodel": b"m"})
    model = make_model(store)
    left = tmp_path / "models" / f"{model.fingerprint}.partial" / "model"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")

    assert [file.name for file in download(model, store, tmp_path).iterdir()] == ["MLmodel"]


def test_the_least_recently_used_model_is_evicted(tmp_path: Path) -> None:
    store = ArtifactsInMemory({"MLmodel": b"m" * 100})
    oldest, newer = (download(make_model(store, name), store, tmp_path) for name in ("one", "two"))
    grow_old(oldest, 9000)
    grow_old(newer, 8000)
    latest = download(make_model(store, "three"), store, tmp_path, max_cache_bytes=250)

    assert [folder.exists() for folder in (oldest, newer, latest)] == [False, True, True]


def test_a_folder_in_use_stays_even_if_the_cache_is_full(tmp_path: Path) -> None:
    store = ArtifactsInMemory({"MLmodel": b"m" * 100})
    one = download(make_model(store, "one"), store, tmp_path)
    two = download(make_model(store, "two"), store, tmp_path, max_cache_bytes=1)

    assert one.exists() and two.exists()

"""Layers that are uploaded while they are built, from files that are not on this machine."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from mlflow_fargate.errors import ImageError, ModelUnusable, RegistryError
from mlflow_fargate.image import Compression, Reference, Registry, StreamedFile
from mlflow_fargate.image.layers.layer import Files, Recipe, write_layer
from mlflow_fargate.image.layers.layer_stream import LayerStream
from mlflow_fargate.image.oci.image import sha256_digest
from mlflow_fargate.image.oci.platforms import LINUX_AMD64
from mlflow_fargate.image.registry.push import Push
from mlflow_fargate.progress import RecordedProgress
from support.image import make_image
from tests.image.conftest import MINOR

WEIGHTS = bytes(range(256)) * 20_000
UPLOADS = "/v2/models/blobs/uploads/"


def streamed(content: bytes, size_bytes: int | None = None, chunk: int = 70_001) -> StreamedFile:
    def chunks() -> Iterator[bytes]:
        for start in range(0, len(content), chunk):
            yield content[start : start + chunk]

    return StreamedFile(len(content) if size_bytes is None else size_bytes, chunks)


def recipe(files: Files) -> Recipe:
    return Recipe("model", "key", lambda: nullcontext(files), is_streamed=True)


@pytest.mark.parametrize("compression", Compression)
def test_a_streamed_layer_equals_one_built_from_files(tmp_path: Path, compression: Compression) -> None:
    (tmp_path / "weights").write_bytes(WEIGHTS)
    (tmp_path / "empty").write_bytes(b"")
    here = {"opt/weights": tmp_path / "weights", "opt/empty": tmp_path / "empty"}
    made = io.BytesIO()
    expected = write_layer(recipe(here), here, made, compression)

    stream = LayerStream(recipe({"opt/weights": streamed(WEIGHTS), "opt/empty": streamed(b"")}), compression)

    assert b"".join(stream.restart()) == made.getvalue()
    assert stream.layer == expected
    assert b"".join(stream.restart()) == made.getvalue()


@pytest.mark.parametrize("size_bytes", [len(WEIGHTS) - 1, len(WEIGHTS) + 1, 0])
def test_a_file_with_a_wrong_size_is_refused(size_bytes: int) -> None:
    stream = LayerStream(recipe({"opt/weights": streamed(WEIGHTS, size_bytes)}), Compression.ZSTD)

    with pytest.raises(ImageError, match="changed while being read"):
        list(stream.restart())


def test_a_failing_source_raises_its_error_and_ends_the_thread() -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 10
        raise ModelUnusable("the model changed")

    stream = LayerStream(recipe({"opt/weights": StreamedFile(20, broken)}), Compression.ZSTD)

    with pytest.raises(ModelUnusable, match="the model changed"):
        list(stream.restart())
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "layer-model"]


def test_an_abandoned_stream_ends_its_thread_and_its_source() -> None:
    ended = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            for number in range(1 << 30):
                yield number.to_bytes(8, "big") * 100_000
        finally:
            ended.set()

    stream = LayerStream(recipe({"opt/weights": StreamedFile(1 << 40, endless)}), Compression.GZIP)
    assert next(stream.restart())

    stream.close()

    assert ended.wait(10)
    assert not [thread for thread in threading.enumerate() if thread.name == "layer-model"]


def test_a_failed_upload_rebuilds_the_layer_in_a_new_session(scripted: Any) -> None:
    scripted.answers("POST", UPLOADS, (202, {"Location": "/one"}, b""), (202, {"Location": "/two"}, b""))
    scripted.answers("PATCH", "/one", (500, {}, b""))
    scripted.answers("PATCH", "/two", (202, {"Location": "/two"}, b""))
    scripted.answers("PUT", "/two", (201, {}, b""))
    moved: list[int] = []

    with Registry(scripted.host) as registry:
        push = Push(registry, "models", present=())
        push.show(moved.append)
        layer, sent = push.stream(recipe({"opt/weights": streamed(WEIGHTS)}), Compression.ZSTD)

    first, second = (request.body for request in scripted.seen("PATCH"))
    assert first == second
    assert sha256_digest(second) == layer.digest
    assert sent == len(second) == layer.size_bytes == sum(moved)
    assert scripted.seen("PUT")[0].path.endswith(layer.digest.replace(":", "%3A"))


def test_changed_bytes_are_detected_by_the_digest(registry: Registry) -> None:
    with pytest.raises(RegistryError, match=r"400|DIGEST"):
        registry.upload_blob("models", lambda: sha256_digest(b"other"), lambda: [WEIGHTS])


def test_a_streamed_layer_is_found_by_the_next_build(
    registry: Registry, base: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the first run ended between the last byte and the manifest."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "service.py").write_text("Service = None\n")
    reads: list[str] = []

    def weights() -> Iterator[bytes]:
        reads.append("weights")
        yield WEIGHTS

    def build() -> Any:
        return make_image(
            base=base,
            requirements=(),
            python_version=MINOR,
            service=tmp_path / "service",
            model={"weights": StreamedFile(len(WEIGHTS), weights)},
            model_key="1",
            destination=Reference(registry.host, "models", "v1"),
            registry=registry,
            cache=tmp_path / "cache",
            progress=RecordedProgress(),
        )

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "write_manifest", lambda *_: (_ for _ in ()).throw(RegistryError("connection lost")))
        with pytest.raises(RegistryError, match="connection lost"):
            build()
    image = build()

    assert reads == ["weights"]
    assert {layer.name: layer.origin for layer in image.report.layers}["model"] == "cached"
    layer = registry.read_manifest("models", "v1", LINUX_AMD64).manifest.layers[-1]
    assert sum(map(len, registry.stream_blob("models", layer))) == layer.size_bytes
    assert not (tmp_path / "cache" / "blobs" / "sha256" / layer.digest.removeprefix("sha256:")).exists()

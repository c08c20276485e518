"""Pushes an image archive (`docker save`) to a repository.

    manifest.json            the files of the configuration and the layers, lowest first
    CONFIG.json              contains the diff IDs of the layers
    LAYER                    a tar, which some engines compress

Layers are keyed by diff ID, so layers of images in the repository are neither compressed nor uploaded.
Source: https://github.com/moby/docker-image-spec/blob/main/v1.2.md#combined-image-json--filesystem-changeset-format
"""

from __future__ import annotations

import gzip
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.layers.layer import Compression, compress_tar, iter_file, make_layer_key
from mlflow_fargate.image.oci.image import (
    OCI_ANNOTATION,
    OCI_CONFIG,
    Descriptor,
    Layer,
    Manifest,
    encode_json,
    sha256_digest,
)
from mlflow_fargate.image.oci.platforms import Platform
from mlflow_fargate.image.registry.push import Push
from mlflow_fargate.image.report import BuildReport, LayerReport, PushedImage
from mlflow_fargate.image.spec import Destination, ImageSpec
from mlflow_fargate.progress import Progress

_OF_OCI = ("architecture", "config", "created", "history", "os", "rootfs", "variant")
_DOCUMENT_LIMIT_BYTES = 8 << 20


def push_archive(
    archive: Path, spec: ImageSpec, destination: Destination, *, work: Path, progress: Progress
) -> PushedImage:
    """Pushes the image in `archive`; compresses one layer at a time in `work`.

    Raises ImageError if the archive is for another platform, or not written by an engine.
    """
    there = destination.images(spec.platform)
    push = Push(destination.store, destination.repository, present=[blob.digest for one in there for blob in one.blobs])
    known = {key: layer for image in there for key, layer in image.own_layers().items()}
    layers: list[Layer] = []
    reports: list[LayerReport] = []
    with (
        tarfile.open(archive) as opened,
        progress.transfer(f"uploading missing layers to {destination.reference.name}", None) as advance,
    ):
        push.show(advance)
        config, names = _read_parts(opened, spec.platform)
        for number, (name, diff_id) in enumerate(zip(names, config["rootfs"]["diff_ids"], strict=True), start=1):
            layer, sent_bytes, origin = known.get(_key(diff_id, spec.compression)), 0, "cached"
            if layer is None:
                with _compressed(_open(opened, name), f"layer-{number}", diff_id, spec.compression, work) as (
                    layer,
                    path,
                ):
                    sent_bytes, origin = push.send(layer.digest, partial(iter_file, path)), "built"
            layers.append(layer)
            reports.append(LayerReport(layer.name, layer.size_bytes, origin, sent_bytes))
    encoded = encode_json({key: config[key] for key in _OF_OCI if config.get(key)})
    manifest = Manifest(
        config=Descriptor(OCI_CONFIG, sha256_digest(encoded), len(encoded)),
        layers=tuple(layer.descriptor for layer in layers),
        annotations={**spec.labels, f"{OCI_ANNOTATION}base.name": str(spec.base)},
    )
    push.send(manifest.config.digest, lambda: [encoded])
    destination.store.write_manifest(destination.repository, destination.reference.identifier, manifest)
    return PushedImage(destination.reference.with_digest(manifest.digest), BuildReport(tuple(reports)))


def _read_parts(archive: tarfile.TarFile, platform: Platform) -> tuple[dict[str, Any], list[str]]:
    """Returns the configuration, and the names of the layers in the archive."""
    try:
        (image,) = json.loads(_read(archive, "manifest.json"))
        config = dict(json.loads(_read(archive, str(image["Config"]))))
        names, diff_ids = [str(name) for name in image["Layers"]], config["rootfs"]["diff_ids"]
        built_for = f"{config['os']}/{config['architecture']}"
        if len(names) != len(diff_ids):
            raise ValueError(f"{len(names)} layers, but {len(diff_ids)} diff IDs")
    except (KeyError, TypeError, ValueError) as error:
        raise ImageError(f"The engine's output is not a valid single-image archive: {error}.") from error
    if built_for != str(platform):
        raise ImageError(f"The engine built an image for {built_for}, not for {platform}.")
    return config, names


def _open(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is not a file")
    return file


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    data = _open(archive, name).read(_DOCUMENT_LIMIT_BYTES + 1)
    if len(data) > _DOCUMENT_LIMIT_BYTES:
        raise ValueError(f"{name} is too large")
    return data


@contextmanager
def _compressed(
    file: IO[bytes], name: str, diff_id: str, compression: Compression, work: Path
) -> Iterator[tuple[Layer, Path]]:
    """Yields the layer in `file` and its temporary compressed file."""
    with file, tempfile.NamedTemporaryFile(dir=work) as into:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        plain = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if is_gzip else file
        write_tar = partial(shutil.copyfileobj, plain)
        layer = compress_tar(name, _key(diff_id, compression), write_tar, cast("IO[bytes]", into), compression)
        into.flush()
        if layer.diff_id != diff_id:
            raise ImageError(f"{name} in the engine's archive has the diff ID {layer.diff_id} instead of {diff_id}.")
        yield layer, Path(into.name)


def _key(diff_id: str, compression: Compression) -> str:
    return make_layer_key("archive", compression, diff_id=diff_id)

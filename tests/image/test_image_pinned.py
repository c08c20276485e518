"""Known inputs have known digests: every machine builds the same bytes."""

from __future__ import annotations

import io
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path

import pytest
import zstandard

from mlflow_fargate.image.layers.layer import Compression, Recipe, make_layer_key, write_layer
from mlflow_fargate.image.layers.paths import ENVIRONMENT, SETTINGS
from mlflow_fargate.image.oci.image import (
    OCI_CONFIG,
    BaseImage,
    Descriptor,
    Layer,
    Manifest,
    make_config,
    sha256_digest,
)

BASE = BaseImage(
    f"sha256:{'b' * 64}",
    (Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", f"sha256:{'c' * 64}", 3),),
    {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Env": ["PATH=/usr/bin", "PYTHON_VERSION=3.11.9"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{'d' * 64}"]},
    },
)


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    (tmp_path / "MLmodel").write_bytes(b"flavors: {}\n")
    (tmp_path / "weights").write_bytes(bytes(range(256)) * 40_000)  # more than one of zstd's jobs
    files = {"opt/app/model/MLmodel": tmp_path / "MLmodel", "opt/app/model/data/weights": tmp_path / "weights"}
    key = make_layer_key("model", Compression.ZSTD, model="fingerprint")
    return write_layer(Recipe("model", key, lambda: nullcontext(files)), files, io.BytesIO(), Compression.ZSTD)


def test_the_key_of_a_layer() -> None:
    key = make_layer_key("model", Compression.ZSTD, model="fingerprint")

    assert key == "25f12ec4adb361cd3b8dfb0145e56e48c008b3d799c8267c93c684c1788150e6"


def test_the_bytes_of_a_layer_before_and_after_compression(layer: Layer) -> None:
    assert layer.diff_id == "sha256:2d5d868ecbada6c644b1c07014d6f8bc23304452949bb89ead2d3239a3b037ef"
    if zstandard.ZSTD_VERSION == (1, 5, 7):  # other releases can compress differently; layers are found by their keys
        assert (layer.digest, layer.size_bytes) == (
            "sha256:f0b29c25a92792deb26ebd57c4cd71d3f30708cf98821ee279156b231b414ff9",
            1404,
        )


def test_configuration_and_manifest_of_an_image(layer: Layer) -> None:
    known = Layer("model", layer.key, layer.diff_id, f"sha256:{'e' * 64}", 5, layer.media_type)
    created = datetime(2026, 5, 4, tzinfo=timezone.utc)

    config = make_config(
        BASE,
        [known],
        environment=ENVIRONMENT,
        labels={"model": "digits"},
        settings=SETTINGS,
        created=created,
        history=["model digits version 3"],
    )
    descriptor = Descriptor(OCI_CONFIG, sha256_digest(config), len(config))
    manifest = Manifest(descriptor, (*BASE.layers, known.descriptor), {"org.opencontainers.image.base.name": "python"})

    assert sha256_digest(config) == "sha256:c8dd7ec573c464db430f231ba4baf74783e89412d991745b37aca8fed16afc67"
    assert manifest.digest == "sha256:b3bd8878da43a3e260716573167bff182df55b872359d90f23793148423f5815"

"""Registries that send wrong data, and file trees with paths outside their root."""

from __future__ import annotations

import io
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from mlflow_fargate.errors import ImageError, RegistryError
from mlflow_fargate.image.layers.layer import Compression, Recipe, files_below, write_layer
from mlflow_fargate.image.oci.image import Descriptor, sha256_digest
from mlflow_fargate.image.oci.platforms import LINUX_AMD64
from mlflow_fargate.image.registry.client import Registry

BLOB = b"blob" * 1000
DIGEST = sha256_digest(BLOB)
UPLOADS = "/v2/models/blobs/uploads/"


def test_a_blob_that_ends_early_is_detected(scripted: Any) -> None:
    scripted.answers("GET", f"/v2/a/blobs/{DIGEST}", (200, {"Content-Length": "4000", "Connection": "close"}, BLOB[:7]))

    with Registry(scripted.host) as registry, pytest.raises(RegistryError, match=r"was lost|wrong data"):
        list(registry.stream_blob("a", Descriptor("x", DIGEST, len(BLOB))))


def test_a_manifest_with_layer_names_other_than_digests_is_refused(scripted: Any) -> None:
    body = b'{"config": {"mediaType": "x", "digest": "../../etc", "size": 1}, "layers": []}'
    scripted.answers("GET", "/v2/a/manifests/v1", (200, {}, body))

    with Registry(scripted.host) as registry, pytest.raises(RegistryError, match="no supported image"):
        registry.read_manifest("a", "v1", LINUX_AMD64)


def test_an_index_without_a_digest_is_refused(scripted: Any) -> None:
    body = b'{"manifests": [{"digest": "../../../token", "platform": {"os": "linux", "architecture": "amd64"}}]}'
    scripted.answers("GET", "/v2/a/manifests/v1", (200, {}, body))

    with Registry(scripted.host) as registry, pytest.raises(RegistryError):
        registry.read_manifest("a", "v1", LINUX_AMD64)
    assert len(scripted.requests) == 1


def test_a_registry_that_stored_a_different_digest_is_detected(scripted: Any) -> None:
    scripted.answers("HEAD", "/v2/a/manifests/v1", (200, {"Docker-Content-Digest": "latest; rm -rf /"}, b""))

    with Registry(scripted.host) as registry, pytest.raises(RegistryError, match="digest"):
        registry.manifest_digest("a", "v1")


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "tree") + b"/\xff\xfe")).write_text("x")

    with pytest.raises(ImageError, match="not UTF-8"):
        write_layer(
            Recipe("model", "key", lambda: nullcontext({})),
            files_below(tmp_path / "tree"),
            io.BytesIO(),
            Compression.ZSTD,
        )


def test_a_directory_that_links_to_its_parent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "up").symlink_to("..")

    with pytest.raises(ImageError, match="is a link to"):
        files_below(tmp_path / "tree")

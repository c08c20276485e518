"""Images in a folder, read by third-party tools."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image import Compression, OciLayout, Reference, Registry
from mlflow_fargate.image.oci.image import sha256_digest
from mlflow_fargate.image.oci.platforms import LINUX_AMD64
from mlflow_fargate.progress import RecordedProgress
from support.image import make_image
from tests.image.conftest import MINOR, push_base


def build(local_registry: str, layout: OciLayout, tmp_path: Path, compression: str = "zstd") -> Any:
    (tmp_path / "service").mkdir(exist_ok=True)
    (tmp_path / "service" / "service.py").write_text("Service = None\n")
    with Registry(local_registry) as registry:
        base = push_base(registry, "library/python", "3-slim")
        return make_image(
            base=base,
            base_registry=registry,
            requirements=(),
            python_version=MINOR,
            service=tmp_path / "service",
            model={"MLmodel": tmp_path / "service" / "service.py"},
            model_key="1",
            destination=Reference("localhost", "exported", "v1"),
            registry=layout,
            cache=tmp_path / "cache",
            progress=RecordedProgress(),
            compression=Compression(compression),
        )


def test_a_layout_contains_the_same_image_as_a_registry(local_registry: str, tmp_path: Path) -> None:
    image = build(local_registry, OciLayout(tmp_path / "layout"), tmp_path)

    again = build(local_registry, OciLayout(tmp_path / "layout"), tmp_path)

    index = json.loads((tmp_path / "layout" / "index.json").read_text())
    assert [entry["digest"] for entry in index["manifests"]] == [image.reference.digest]
    assert again.reference == image.reference
    assert again.report.sent_bytes == 0
    for blob in (tmp_path / "layout" / "blobs" / "sha256").iterdir():
        assert sha256_digest(blob.read_bytes()) == f"sha256:{blob.name}"


def test_a_layout_in_a_tar_is_an_archive_for_docker_load(local_registry: str, tmp_path: Path) -> None:
    layout = tmp_path / "My churn_image"

    image = build(local_registry, OciLayout(layout), tmp_path, "gzip")

    (described,) = json.loads((layout / "manifest.json").read_text())
    config = json.loads((layout / described["Config"]).read_text())
    plain = [gzip.decompress((layout / name).read_bytes()) for name in described["Layers"]]
    assert described["RepoTags"] == ["my-churn-image:v1"]
    assert [sha256_digest(content) for content in plain] == config["rootfs"]["diff_ids"]
    assert (layout / "blobs" / "sha256" / image.reference.digest[7:]).exists()


@pytest.mark.slow
def test_skopeo_writes_dockers_formats_from_gzip(local_registry: str, tmp_path: Path) -> None:
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed (apt-get install skopeo)")
    done = {}
    for compression in ("gzip", "zstd"):
        build(local_registry, OciLayout(tmp_path / compression), tmp_path, compression)
        source, archive = f"oci:{tmp_path / compression}:v1", tmp_path / f"{compression}.tar"
        command = ["skopeo", "copy", source, f"docker-archive:{archive}:churn:1"]
        done[compression] = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done["gzip"].returncode == 0, done["gzip"].stderr
    with tarfile.open(tmp_path / "gzip.tar") as opened:
        (described,) = json.load(opened.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert described["RepoTags"] == ["docker.io/library/churn:1"]
    # Debian 12's skopeo cannot write them from zstd, Debian 13's can.
    assert done["zstd"].returncode == 0 or "zstd compression is not supported" in done["zstd"].stderr


@pytest.mark.slow
def test_skopeo_reads_a_layout_and_copies_it_into_a_registry(
    local_registry: str, distribution: str, tmp_path: Path
) -> None:
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed (apt-get install skopeo)")
    image = build(local_registry, OciLayout(tmp_path / "layout"), tmp_path)
    source = f"oci:{tmp_path / 'layout'}:v1"

    inspect = subprocess.run(["skopeo", "inspect", source], capture_output=True, text=True, check=True)
    copy = ["skopeo", "copy", "--dest-tls-verify=false", source, f"docker://{distribution}/taken/elsewhere:v1"]
    subprocess.run(copy, capture_output=True, check=True)

    assert json.loads(inspect.stdout)["Digest"] == image.reference.digest
    with Registry(distribution) as registry:
        assert registry.read_manifest("taken/elsewhere", "v1", LINUX_AMD64).digest == image.reference.digest


def test_a_folder_with_other_files_is_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(ImageError, match=r"(?s)not an OCI image layout.*hint: choose an empty or a new folder"):
        OciLayout(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_bytes_with_a_different_digest_are_not_stored(tmp_path: Path) -> None:
    layout = OciLayout(tmp_path)

    with pytest.raises(ImageError, match="Digest mismatch"):
        layout.upload_blob("any", sha256_digest(b"other"), lambda: [b"blob"])

    assert list((tmp_path / "blobs" / "sha256").iterdir()) == []


def test_reading_a_layout_changes_nothing_in_it(local_registry: str, tmp_path: Path) -> None:
    build(local_registry, OciLayout(tmp_path / "layout"), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "layout").rglob("*")}

    assert OciLayout(tmp_path / "layout").manifest_digest("any", "v1")

    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "layout").rglob("*")} == before


def test_an_image_without_a_tag_stays_in_the_layout(local_registry: str, tmp_path: Path) -> None:
    """As `skopeo copy … oci:FOLDER` writes it."""
    image = build(local_registry, OciLayout(tmp_path / "layout"), tmp_path)
    path = tmp_path / "layout" / "index.json"
    index = json.loads(path.read_text())
    del index["manifests"][0]["annotations"]
    path.write_text(json.dumps(index))

    build(local_registry, OciLayout(tmp_path / "layout"), tmp_path)

    entries = json.loads(path.read_text())["manifests"]
    assert [entry["digest"] for entry in entries] == [image.reference.digest] * 2
    assert ["annotations" in entry for entry in entries] == [False, True]

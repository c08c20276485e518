"""Images in a folder, read by third-party tools."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image import OciLayout, Reference, Registry
from mlflow_fargate.image.oci.image import sha256_digest
from mlflow_fargate.image.oci.platforms import LINUX_AMD64
from mlflow_fargate.progress import RecordedProgress
from support.image import make_image
from tests.image.conftest import MINOR, push_base


def build(local_registry: str, layout: OciLayout, tmp_path: Path) -> Any:
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

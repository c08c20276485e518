"""Whole images, with a tiny package from PyPI, against the local registry and CNCF distribution."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import zstandard

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image import Compression, PushedImage, Reference, Registry
from mlflow_fargate.image.oci.image import Manifest
from mlflow_fargate.image.oci.platforms import LINUX_AMD64, LINUX_ARM64
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.progress import RecordedProgress
from support.image import make_image

pytestmark = pytest.mark.slow

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def service(tmp_path: Path) -> Path:
    directory = tmp_path / "service"
    (directory / "__pycache__").mkdir(parents=True)
    (directory / "__pycache__" / "service.cpython-311.pyc").write_bytes(b"left over")
    (directory / "service.py").write_text("Service = None\n")
    (directory / "service.json").write_text("{}\n")
    return directory


@pytest.fixture
def model(tmp_path: Path) -> Mapping[str, Path]:
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    (tmp_path / "weights").write_bytes(b"w" * 100_000)
    return {"MLmodel": tmp_path / "MLmodel", "data/weights": tmp_path / "weights"}


@pytest.fixture
def inputs(
    registry: Registry, base: Reference, service: Path, model: Mapping[str, Path], tmp_path: Path
) -> dict[str, Any]:
    return {
        "base": base,
        "requirements": ["six==1.17.0"],
        "python_version": f"{MINOR}.7",
        "service": service,
        "model": model,
        "model_key": "model-1",
        "destination": Reference(registry.host, "mlflow-fargate/default", "v1"),
        "registry": registry,
        "cache": tmp_path / "cache",
        "progress": RecordedProgress(),
    }


def read(registry: Registry, image: PushedImage) -> tuple[Manifest, dict[str, Any]]:
    repository, digest = image.reference.repository, image.reference.identifier
    manifest = registry.read_manifest(repository, digest, LINUX_AMD64).manifest
    return manifest, registry.read_json(repository, manifest.config)


def names(registry: Registry, image: PushedImage, index: int) -> list[str]:
    layer = read(registry, image)[0].layers[index]
    packed = b"".join(registry.stream_blob(image.reference.repository, layer))
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        return [member.name for member in archive.getmembers() if member.isfile()]


def sent(image: PushedImage) -> dict[str, tuple[str, bool]]:
    return {layer.name: (layer.origin, layer.sent_bytes > 0) for layer in image.report.layers}


def never() -> Mapping[str, Path]:
    raise AssertionError("the model was fetched")


def test_the_image_has_the_agreed_start_and_content(registry: Registry, inputs: dict[str, Any]) -> None:
    facts = {"org.opencontainers.image.version": "3"}
    image = make_image(
        **inputs,
        labels={"model": "digits", **facts},
        created=datetime(2026, 5, 4, 3, 2, 1, tzinfo=timezone.utc),
    )

    manifest, config = read(registry, image)
    settings = config["config"]
    environment = dict(entry.split("=", 1) for entry in settings["Env"])
    assert config["created"] == "2026-05-04T03:02:01Z"
    assert settings["User"] == "65532:65532"
    assert settings["Entrypoint"] == ["python3", "-m", "fargate_service.serve"]
    assert settings["Volumes"] == {"/tmp": {}}
    assert "Cmd" not in settings
    assert settings["Labels"] == {"from": "base", "model": "digits", **facts}
    assert environment["PYTHON_VERSION"] == f"{MINOR}.9"
    assert environment["PYTHONPATH"] == "/opt/app/site:/opt/app/src"
    assert len(config["rootfs"]["diff_ids"]) == len(manifest.layers) == 5
    assert sum(not entry.get("empty_layer") for entry in config["history"]) == 5
    assert {"model": "digits", **facts}.items() <= manifest.annotations.items()
    assert manifest.annotations["org.opencontainers.image.base.name"] == str(inputs["base"])
    assert [entry["created_by"].partition(", ")[0] for entry in config["history"]][-3:] == [
        "mlflow-fargate: six 1.17.0",
        "mlflow-fargate: service code",
        "mlflow-fargate: model",
    ]
    assert names(registry, image, 3) == ["opt/app/src/service.json", "opt/app/src/service.py"]
    assert names(registry, image, 4) == ["opt/app/model/MLmodel", "opt/app/model/data/weights"]


def test_packages_are_compiled_and_without_installation_leftovers(registry: Registry, inputs: dict[str, Any]) -> None:
    found = names(registry, make_image(**inputs), 2)

    assert "opt/app/site/six.py" in found
    assert f"opt/app/site/__pycache__/six.cpython-{MINOR.replace('.', '')}.pyc" in found
    assert {name.rpartition("/")[2] for name in found if ".dist-info/" in name} == {
        "LICENSE",
        "METADATA",
        "WHEEL",
        "top_level.txt",
    }


def test_building_again_uploads_nothing_and_does_not_fetch_the_model(inputs: dict[str, Any]) -> None:
    first = make_image(**inputs)

    again = make_image(**{**inputs, "model": never})

    assert again.reference == first.reference
    assert again.report.sent_bytes == 0
    assert "an identical image is already in the registry" in inputs["progress"].lines


def test_a_new_machine_uploads_only_the_new_model(inputs: dict[str, Any], tmp_path: Path) -> None:
    first = make_image(**inputs)
    (tmp_path / "weights").write_bytes(b"v" * 100_000)

    second = make_image(
        **{
            **inputs,
            "cache": tmp_path / "empty",
            "model_key": "model-2",
            "destination": replace(inputs["destination"], tag="v2"),
        },
        previous=first.reference,
    )

    assert second.reference != first.reference
    assert sent(second) == {
        "base": ("base", False),
        "dependencies": ("cached", False),
        "service": ("cached", False),
        "model": ("built", True),
    }


def test_a_second_repository_gets_its_layers_from_this_machine(inputs: dict[str, Any]) -> None:
    make_image(**inputs)
    elsewhere = Reference(inputs["registry"].host, "mlflow-fargate/other", "v1")

    image = make_image(**{**inputs, "destination": elsewhere, "model": never})

    assert {origin for origin, _ in sent(image).values()} == {"base", "cached"}
    assert sent(image)["model"] == ("cached", True)


def test_two_machines_build_the_same_image(inputs: dict[str, Any], tmp_path: Path) -> None:
    one = make_image(**inputs)
    elsewhere = Reference(inputs["registry"].host, "mlflow-fargate/other", "v1")

    other = make_image(**{**inputs, "destination": elsewhere, "cache": tmp_path / "empty"})

    assert other.reference.digest == one.reference.digest


def test_a_base_in_the_same_registry_is_mounted(inputs: dict[str, Any]) -> None:
    assert sent(make_image(**inputs))["base"] == ("base", False)


def test_a_base_in_another_registry_is_streamed(inputs: dict[str, Any], tmp_path: Path) -> None:
    original = Reference.parse("public.ecr.aws/library/python:slim")
    with LocalRegistry(tmp_path / "mirror", password=None) as server, Registry(server.address) as mirror:
        copy_base(inputs["registry"], mirror, inputs["base"], "slim")

        image = make_image(**{**inputs, "base": original}, base_registry=mirror)

    assert sent(image)["base"] == ("base", True)
    assert read(inputs["registry"], image)[0].annotations["org.opencontainers.image.base.name"] == str(original)


def copy_base(source: Registry, target: Registry, base: Reference, tag: str) -> None:
    manifest = source.read_manifest(base.repository, base.identifier, LINUX_AMD64).manifest
    for blob in manifest.blobs:
        data = b"".join(source.stream_blob(base.repository, blob))
        target.upload_blob(base.repository, blob.digest, lambda data=data: [data])  # type: ignore[misc]
    target.write_manifest(base.repository, tag, manifest)


def test_without_a_tag_the_image_is_tagged_by_its_digest(inputs: dict[str, Any]) -> None:
    untagged = Reference(inputs["registry"].host, "mlflow-fargate/default")

    image = make_image(**{**inputs, "destination": untagged})

    assert image.reference.digest
    tag = f"image-{image.reference.digest.removeprefix('sha256:')[:16]}"
    assert inputs["registry"].manifest_digest("mlflow-fargate/default", tag) == image.reference.digest


def test_a_base_with_another_python_is_refused(inputs: dict[str, Any]) -> None:
    with pytest.raises(
        ImageError,
        match=rf"(?s)has Python {MINOR}, but the model requires Python 3\.99.*hint: .*base_image=\S+3\.99-slim",
    ):
        make_image(**{**inputs, "python_version": "3.99.1"})


@pytest.mark.parametrize(
    ("mirrored", "way_out"), [(None, ""), ("public.ecr.aws", "on the local stack, .* run it with Python 3.99; else ")]
)
def test_a_base_that_does_not_exist_for_that_python_is_named_with_one_to_take(
    inputs: dict[str, Any], mirrored: str | None, way_out: str
) -> None:
    base = Reference(mirrored or inputs["registry"].host, "docker/library/python", "3.99-slim")
    expected = rf"(?s)no base image {base} for Python 3.99.*hint: {way_out}choose .* base_image=\S+/python:3.99-slim"

    with pytest.raises(ImageError, match=expected):
        make_image(**{**inputs, "base": base, "python_version": "3.99"}, base_registry=inputs["registry"])


def test_a_base_for_another_platform_is_refused(inputs: dict[str, Any]) -> None:
    with pytest.raises(ImageError, match="is for linux/amd64, not for linux/arm64"):
        make_image(**inputs, platform=LINUX_ARM64)


def test_a_model_that_cannot_be_fetched_leaves_no_image(inputs: dict[str, Any]) -> None:
    def broken() -> Mapping[str, Path]:
        raise ImageError("the bucket is gone")

    with pytest.raises(ImageError, match="the bucket is gone"):
        make_image(**{**inputs, "model": broken})
    assert inputs["registry"].manifest_digest("mlflow-fargate/default", "v1") is None


@pytest.mark.parametrize("compression", Compression)
def test_other_tools_read_the_image(inputs: dict[str, Any], compression: Compression, tmp_path: Path) -> None:
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed (apt-get install skopeo)")
    image = make_image(**inputs, compression=compression)

    command = ["skopeo", "inspect", "--tls-verify=false", f"docker://{image.reference}"]
    seen = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    subprocess.run(
        ["skopeo", "copy", "--src-tls-verify=false", f"docker://{image.reference}", f"oci:{tmp_path / 'copied'}:v1"],
        capture_output=True,
        check=True,
    )

    assert seen["Digest"] == image.reference.digest
    assert len(seen["Layers"]) == 5
    assert seen["Architecture"] == "amd64"

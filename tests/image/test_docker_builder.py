"""Images built from a Dockerfile: its text, the engine's output, and the error without an engine."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image import (
    LINUX_AMD64,
    LINUX_ARM64,
    Destination,
    ImageSpec,
    ImageStore,
    Model,
    OciLayout,
    PushedImage,
    Reference,
    Registry,
)
from mlflow_fargate.image.docker.archive import push_archive
from mlflow_fargate.image.docker.context import make_dockerfile, quoted, write_context
from mlflow_fargate.image.docker.engine import build_archive
from mlflow_fargate.image.oci.image import sha256_digest
from mlflow_fargate.image.packages.lock_file import Lock, LockedPackage
from mlflow_fargate.progress import RecordedProgress

LOCK = Lock((LockedPackage("six", "six==1.17.0", ("sha256:" + "4" * 64,)),), "3.11", LINUX_AMD64)
BASE = Reference.parse("python:3.11-slim")
WEIGHTS = Model({"weights": Path("weights")}, "1")
SPEC = ImageSpec(BASE, "3.11", (), Path("service"), WEIGHTS)


def dockerfile(**changed: Any) -> str:
    return make_dockerfile(replace(SPEC, **changed), LOCK)


def test_a_dockerfile_starts_like_an_image_built_from_layers() -> None:
    text = dockerfile(labels={"org.opencontainers.image.title": "churn"})

    assert "\nFROM docker.io/library/python:3.11-slim\n" in text
    assert "USER 65532:65532\n" in text
    assert 'ENTRYPOINT ["python3", "-m", "fargate_service.serve"]' in text
    assert 'VOLUME ["/tmp"]' in text
    assert 'MODEL_DIR="/opt/app/model"' in text
    assert 'LABEL "org.opencontainers.image.title"="churn"\n' in text
    assert text.index("requirements.txt") < text.index("COPY src") < text.index("COPY model /opt/app/model")
    assert "apt-get" not in text


def test_system_packages_and_additional_models_have_their_lines() -> None:
    text = dockerfile(system_packages=("libgomp1", "libgl1"), further_models={"other": WEIGHTS})

    assert "apt-get install -y --no-install-recommends libgl1 libgomp1 &&" in text
    assert "COPY models /opt/app/models\n" in text


@given(st.text())
def test_any_text_stays_inside_its_quotes(value: str) -> None:
    word = quoted(value)

    assert len(word.splitlines()) <= 1
    assert re.fullmatch(r'"(?:[^"\\$`]|\\["\\$`])*"', word)


def test_an_index_password_is_refused_if_it_would_be_stored_in_a_layer(tmp_path: Path) -> None:
    for url in ("https://me:secret@pypi.example.com/simple", "https://${TOKEN}@pypi.example.com/simple"):
        lock = Lock(LOCK.packages, "3.11", LINUX_AMD64, (f"--extra-index-url {url}",))
        with pytest.raises(ImageError, match=r"(?s)requires a password.*builder=layers") as caught:
            write(tmp_path / "context", lock=lock)
        assert "secret" not in str(caught.value)
    assert not (tmp_path / "context").exists()


def write(folder: Path, lock: Lock = LOCK, **changed: Any) -> None:
    service = folder.parent / "service"
    (service / "__pycache__").mkdir(parents=True, exist_ok=True)
    (service / "__pycache__" / "service.pyc").write_text("left over")
    (service / "service.py").write_text("Service = None\n")
    (folder.parent / "weights").write_bytes(b"w")
    weights = folder.parent / "weights"
    further = {"other": Model(lambda: {"weights": weights}, "2")}
    spec = replace(SPEC, service=service, model=Model({"data/weights": weights}, "1"), further_models=further)
    write_context(folder, replace(spec, **changed), lock)


def test_a_context_contains_what_its_dockerfile_copies(tmp_path: Path) -> None:
    write(tmp_path / "context")

    files = sorted(
        path.relative_to(tmp_path / "context").as_posix()
        for path in (tmp_path / "context").rglob("*")
        if path.is_file()
    )
    assert files == ["Dockerfile", "model/data/weights", "models/other/weights", "requirements.txt", "src/service.py"]
    assert "six==1.17.0 \\\n    --hash=sha256:" in (tmp_path / "context" / "requirements.txt").read_text()
    with pytest.raises(ImageError, match="is not empty"):
        write(tmp_path / "context")


def test_a_model_file_outside_its_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"is not a relative path"):
        write(tmp_path / "context", model=Model({"../../escaped": tmp_path / "weights"}, "1"))

    assert not (tmp_path / "escaped").exists()


def test_a_missing_engine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ImageError, match=r"(?s)podman is not installed.*builder=layers"):
        build("podman", tmp_path)


def build(engine: str, folder: Path) -> RecordedProgress:
    progress = RecordedProgress()
    build_archive(engine, folder, folder / "image.tar", name="churn:1", platform=LINUX_AMD64, progress=progress)
    return progress


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_an_engines_steps_and_last_lines_are_shown(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / engine
    program.write_text(
        '#!/bin/sh\necho "STEP 1/9: FROM x"\necho "chatter"\n[ "$1" = build ] || { echo "no room"; exit 3; }\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    with pytest.raises(
        ImageError, match=rf"(?s){engine} could not (save|push) the image \(exit code 3\).*no room"
    ) as caught:
        build(engine, tmp_path)
    assert "image export --dockerfile" in str(caught.value.hint)


def make_archive(
    path: Path, layers: list[bytes], *, architecture: str = "amd64", diff_ids: list[str] | None = None
) -> None:
    """Writes the parts of a `docker save` archive that are read."""
    plain = [gzip.decompress(layer) if layer[:2] == b"\x1f\x8b" else layer for layer in layers]
    config = {
        "architecture": architecture,
        "os": "linux",
        "docker_version": "left out",
        "config": {"User": "65532:65532", "Labels": {"model": "churn"}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids or [sha256_digest(layer) for layer in plain]},
    }
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": ["churn:1"], "Layers": names}]
    files = {"manifest.json": json.dumps(manifest).encode(), "config.json": json.dumps(config).encode()}
    with tarfile.open(path, "w") as archive:
        for name, content in {**files, **dict(zip(names, layers, strict=True))}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def push(
    archive: Path, registry: ImageStore, tag: str = "v1", previous: Reference | None = None, **changed: Any
) -> PushedImage:
    destination = Destination(registry, Reference("localhost", "models", tag), previous)
    spec = replace(SPEC, **changed)
    return push_archive(archive, spec, destination, work=archive.parent, progress=RecordedProgress())


def test_an_engines_archive_becomes_an_image_and_known_layers_are_not_uploaded_again(
    local_registry: str, tmp_path: Path
) -> None:
    lower, upper, other = (b"%d" % number * 5000 for number in range(3))
    make_archive(tmp_path / "first.tar", [gzip.compress(lower), upper])
    make_archive(tmp_path / "second.tar", [lower, other])
    with Registry(local_registry) as registry:
        first = push(tmp_path / "first.tar", registry)
        second = push(tmp_path / "second.tar", registry, "v2", first.reference)

        manifest = registry.read_manifest("models", second.reference.identifier, LINUX_AMD64).manifest
        config = registry.read_json("models", manifest.config)

    assert [layer.origin for layer in first.report.layers] == ["built", "built"]
    assert [(layer.origin, layer.sent_bytes > 0) for layer in second.report.layers] == [
        ("cached", False),
        ("built", True),
    ]
    assert config["config"]["Labels"] == {"model": "churn"}
    assert "docker_version" not in config
    assert manifest.annotations == {"org.opencontainers.image.base.name": str(BASE)}


def test_an_inconsistent_archive_is_refused(tmp_path: Path) -> None:
    layout = OciLayout(tmp_path / "layout")
    make_archive(tmp_path / "wrong.tar", [b"layer"], diff_ids=[sha256_digest(b"other")])
    make_archive(tmp_path / "arm.tar", [b"layer"], architecture="arm64")
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass

    for name, complaint in (
        ("wrong", "layer-1 in the engine's archive has the diff ID sha256:"),
        ("arm", "built an image for linux/arm64, not for linux/amd64"),
        ("empty", "not a valid single-image archive"),
    ):
        with pytest.raises(ImageError, match=complaint):
            push(tmp_path / f"{name}.tar", layout)
    assert push(tmp_path / "arm.tar", layout, platform=LINUX_ARM64).reference.digest

"""An ARM image built on this machine: every ELF file in it is for ARM."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from elftools.elf.elffile import ELFFile

from mlflow_fargate.image import LINUX_ARM64, Reference, Registry
from mlflow_fargate.progress import RecordedProgress
from support.image import GLIBC, make_image

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def host(local_registry: str) -> str:
    """One registry is enough here."""
    return local_registry


def machines(registry: Registry, image: Reference) -> Iterator[tuple[str, str]]:
    """Yields name and machine of each ELF file in the built layers, from its header."""
    found = registry.read_manifest(image.repository, image.identifier, LINUX_ARM64).manifest
    for layer in found.own_layers().values():
        packed = b"".join(registry.stream_blob(image.repository, layer.descriptor))
        plain = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
        with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                data = content.read() if content else b""
                if data.startswith(b"\x7fELF"):
                    yield member.name, ELFFile(io.BytesIO(data)).header.e_machine


@pytest.mark.parametrize(
    "requirements",
    [
        pytest.param(["ujson==6.1.0", "pyyaml", "msgpack"], marks=pytest.mark.slow),
        pytest.param(["scikit-learn", "xgboost-cpu"], marks=pytest.mark.exhaustive),
    ],
    ids=["small", "large"],
)
def test_every_elf_file_of_an_arm_image_is_for_arm(
    requirements: list[str], make_base: Callable[..., Reference], registry: Registry, tmp_path: Path
) -> None:
    libraries = {f"usr/lib/aarch64-linux-gnu/{name}": "" for name in (*GLIBC, "ld-linux-aarch64.so.1", "libgomp.so.1")}
    inputs: dict[str, Any] = {
        "base": make_base("library/python", "3-slim", files=[libraries], architecture="arm64"),
        "requirements": requirements,
        "python_version": MINOR,
        "platform": LINUX_ARM64,
        "service": tmp_path / "service",
        "model": {},
        "model_key": "none",
        "destination": Reference(registry.host, "models", "v1"),
        "registry": registry,
        "cache": tmp_path / "cache",
        "progress": RecordedProgress(),
    }
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "service.py").write_text("Service = None\n")

    image = make_image(**inputs).reference

    found = dict(machines(registry, image))
    assert len(found) >= 3
    assert set(found.values()) == {"EM_AARCH64"}

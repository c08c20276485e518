"""The bytecode of the base's standard library: a layer, where the base has none."""

from __future__ import annotations

import errno
import importlib.util
import io
import marshal
import shutil
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image import OciLayout, PushedImage, Reference, Registry
from mlflow_fargate.image.layers.members import open_members
from mlflow_fargate.image.oci.platforms import LINUX_AMD64
from mlflow_fargate.progress import RecordedProgress
from support.image import make_image
from tests.image.conftest import MINOR, make_tar

pytestmark = pytest.mark.slow

LIBRARY = f"usr/local/lib/python{MINOR}"
TAG = sys.implementation.cache_tag
LAYERS: list[Mapping[str, str | bytes]] = [
    {
        f"{LIBRARY}/os.py": "SEPARATOR = '/'\n",
        f"{LIBRARY}/json/decoder.py": "def decode(text): return text\n",
        f"{LIBRARY}/lib2to3/broken.py": "print 'Python 2'\n",
        f"{LIBRARY}/notes.py": "def:\n",
        f"{LIBRARY}/replaced.py": "",
        f"{LIBRARY}/test/test_os.py": "",
        f"{LIBRARY}/site-packages/pip/main.py": "",
        "usr/local/lib/python2.7/os.py": "",
    },
    {f"{LIBRARY}/.wh.replaced.py": "", "etc/os-release": "ID=debian\n"},
]


@pytest.fixture
def build(local_registry: str, tmp_path: Path) -> Callable[..., PushedImage]:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "service.py").write_text("Service = None\n")

    def build(base: Reference, **options: Any) -> PushedImage:
        with Registry(local_registry) as registry:
            return make_image(
                **{
                    "base": base,
                    "base_registry": registry,
                    "requirements": ["six==1.17.0"],
                    "python_version": MINOR,
                    "service": tmp_path / "service",
                    "model": {"MLmodel": tmp_path / "service" / "service.py"},
                    "destination": Reference(local_registry, "churn", "v1"),
                    "registry": registry,
                    "cache": tmp_path / "cache",
                    "progress": RecordedProgress(),
                    **options,
                }
            )

    return build


@pytest.fixture
def registry(local_registry: str) -> Registry:
    return Registry(local_registry)


def contents(registry: Registry, image: PushedImage) -> dict[str, bytes]:
    """The files of the layer."""
    repository = image.reference.repository
    manifest = registry.read_manifest(repository, image.reference.identifier, LINUX_AMD64).manifest
    (layer,) = (one for one in manifest.own_layers().values() if one.name == "standard-library")
    packed = b"".join(registry.stream_blob(repository, layer.descriptor))
    with tarfile.open(fileobj=io.BytesIO(zstandard.ZstdDecompressor().decompressobj().decompress(packed))) as archive:
        files = [member for member in archive if member.isfile()]
        return {member.name: archive.extractfile(member).read() for member in files}  # type: ignore[union-attr]


def layers(image: PushedImage) -> list[str]:
    return [layer.name for layer in image.report.layers]


def test_a_library_without_bytecode_is_compiled_and_needs_no_look_at_its_source(
    build: Callable[..., PushedImage], registry: Registry, make_base: Callable[..., Reference]
) -> None:
    found = contents(registry, build(make_base("library/python", "3-slim", files=LAYERS)))

    assert sorted(found) == [f"{LIBRARY}/__pycache__/os.{TAG}.pyc", f"{LIBRARY}/json/__pycache__/decoder.{TAG}.pyc"]
    compiled = found[f"{LIBRARY}/__pycache__/os.{TAG}.pyc"]
    code = marshal.loads(compiled[16:])
    assert compiled[:4] == importlib.util.MAGIC_NUMBER
    assert compiled[4:8] == (0b01).to_bytes(4, "little")  # by hash, unchecked (PEP 552)
    assert code.co_filename == f"/{LIBRARY}/os.py"


def test_it_is_built_once_for_a_base_and_a_clean_machine_does_not_read_the_base(
    build: Callable[..., PushedImage], make_base: Callable[..., Reference], tmp_path: Path
) -> None:
    base = make_base("library/python", "3-slim", files=LAYERS)
    first = build(base)
    shutil.rmtree(tmp_path / "cache")
    progress = RecordedProgress()

    again = build(base, progress=progress)
    exported = build(base, registry=OciLayout(tmp_path / "layout"))

    assert again.reference == first.reference
    assert exported.reference.digest == first.reference.digest
    assert layers(again)[1] == "standard-library"
    assert again.report.sent_bytes == 0
    assert not [line for line in progress.lines if "base image" in line and "scanning" in line]


@pytest.mark.parametrize(
    ("files", "note"),
    [
        ({f"{LIBRARY}/os.py": "", f"{LIBRARY}/__pycache__/os.{TAG}.pyc": b"compiled"}, None),
        ({f"usr/lib/python{MINOR}/os.py": ""}, "the base image's standard library is not in /usr/local/lib"),
    ],
)
def test_a_base_with_bytecode_or_another_layout_gets_no_layer(
    build: Callable[..., PushedImage], make_base: Callable[..., Reference], files: dict[str, Any], note: str | None
) -> None:
    progress = RecordedProgress()

    image = build(make_base("library/python", "3-slim", files=[files]), progress=progress)

    assert "standard-library" not in layers(image)
    assert [line for line in progress.lines if "standard library" in line] == (
        [f"{note}, so its bytecode is not added"] if note else []
    )


def test_a_full_disk_is_not_blamed_on_the_layer() -> None:
    with (
        pytest.raises(OSError, match="No space left") as caught,
        open_members(iter([make_tar({"a": "a"})]), "tar", "It"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(ImageError, match="It cannot be read"), open_members(iter([b"not a tar"]), "tar", "It"):
        raise AssertionError("entered")


def test_without_a_matching_python_here_there_is_no_layer_and_a_built_one_is_reused(
    build: Callable[..., PushedImage], make_base: Callable[..., Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base("library/python", "3-slim", files=LAYERS)
    other = make_base("library/python", "other", files=[*LAYERS, {"etc/more": ""}])
    build(base)
    for module in ("build", "packages.package_layers"):
        monkeypatch.setattr(f"mlflow_fargate.image.{module}.find_interpreter", lambda version: None)

    assert "standard-library" in layers(build(base))
    assert "standard-library" not in layers(build(other, destination=Reference(base.registry, "churn", "v2")))

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import pytest
import zstandard
from hypothesis import assume, given
from hypothesis import strategies as st

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.layers.layer import Compression, Recipe, files_below, make_layer_key, write_layer
from mlflow_fargate.image.oci.image import Layer
from mlflow_fargate.image.registry.blob_cache import BlobCache


def recipe(files: Mapping[str, Path], *, key: str = "key", keep_executable: bool = False) -> Recipe:
    return Recipe("model", key, lambda: nullcontext(files), keep_executable=keep_executable)


def write(
    files: Mapping[str, Path], compression: Compression = Compression.ZSTD, **options: bool
) -> tuple[Layer, bytes]:
    stream = io.BytesIO()
    layer = write_layer(recipe(files, **options), files, stream, compression)  # type: ignore[arg-type]
    return layer, stream.getvalue()


def unpack(data: bytes) -> list[tarfile.TarInfo]:
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        return archive.getmembers()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    return {"opt/app/model/MLmodel": tmp_path / "a", "opt/app/model/data/weights": tmp_path / "b"}


@pytest.mark.parametrize("compression", Compression)
def test_known_files_have_a_known_diff_id(files: dict[str, Path], compression: Compression) -> None:
    layer, _ = write(files, compression)

    assert layer.diff_id == "sha256:fb67e7bda1ddf98df31a522cde1befdec5a6324930b20ec1860337958b983b38"


@pytest.mark.parametrize("compression", Compression)
def test_times_modes_and_order_do_not_matter(files: dict[str, Path], compression: Compression) -> None:
    before = write(files, compression)
    for path in files.values():
        os.utime(path, (1, 1))
        path.chmod(0o700)

    after = write(dict(reversed(files.items())), compression)

    assert after == before


def test_parents_come_before_their_files_and_belong_to_root(files: dict[str, Path]) -> None:
    members = unpack(write(files)[1])

    assert [(member.name, member.mode, member.isdir()) for member in members] == [
        ("opt", 0o755, True),
        ("opt/app", 0o755, True),
        ("opt/app/model", 0o755, True),
        ("opt/app/model/MLmodel", 0o644, False),
        ("opt/app/model/data", 0o755, True),
        ("opt/app/model/data/weights", 0o644, False),
    ]
    assert {(member.uid, member.gid, member.uname, member.mtime) for member in members} == {(0, 0, "", 0)}


def test_programs_stay_executable_if_requested(files: dict[str, Path]) -> None:
    files["opt/app/model/MLmodel"].chmod(0o755)

    modes = {member.name: member.mode for member in unpack(write(files, keep_executable=True)[1])}

    assert (modes["opt/app/model/MLmodel"], modes["opt/app/model/data/weights"]) == (0o755, 0o644)


def test_two_names_of_one_file_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").hardlink_to(tmp_path / "a")

    members = unpack(write(files_below(tmp_path))[1])

    assert [member.isreg() for member in members] == [True, True]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=80))
def test_any_valid_file_name_is_read_back(name: str) -> None:
    assume(name not in {".", ".."} and len(name.encode()) <= 255)

    members = unpack(write({f"dir/{name}": Path(__file__)})[1])

    assert members[1].name == f"dir/{name}"


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x", "a/../../x", "a//b", "./a", "", "a/" + "x" * 256, "\udcff", "a\0b"]
)
def test_names_outside_the_root_are_refused(name: str) -> None:
    with pytest.raises(ImageError):
        write({name: Path(__file__)})


def test_links_inside_become_files_and_links_outside_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "real").write_text("x")
    (root / "link").symlink_to("real")

    assert set(files_below(root)) == {"real", "link"}
    assert {member.type for member in unpack(write(files_below(root))[1])} == {tarfile.REGTYPE}

    (root / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(ImageError, match="passwd"):
        files_below(root)


def test_links_and_pipes_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")

    for name in ("link", "pipe"):
        with pytest.raises(ImageError, match="regular file"):
            write({name: tmp_path / name})


def test_a_key_depends_on_inputs_and_compression() -> None:
    key = make_layer_key("model", Compression.ZSTD, model="1")

    assert key == make_layer_key("model", Compression.ZSTD, model="1")
    assert (
        len(
            {
                key,
                make_layer_key("model", Compression.ZSTD, model="2"),
                make_layer_key("model", Compression.GZIP, model="1"),
            }
        )
        == 3
    )


def test_a_cached_layer_is_not_built_again(files: dict[str, Path], tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache")
    made = cache.build(recipe(files), Compression.ZSTD)

    def never() -> nullcontext[Mapping[str, Path]]:
        raise AssertionError("built again")

    assert cache.build(Recipe("model", "key", never), Compression.ZSTD) == made
    assert cache.find(("other", "key")) == made
    assert cache.find(("other",)) is None
    assert len(b"".join(cache.stream(made))) == made.size_bytes


def test_a_failed_layer_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache")

    with pytest.raises(ImageError):
        cache.build(recipe({"../x": Path(__file__)}), Compression.ZSTD)

    assert list((tmp_path / "cache" / "blobs" / "sha256").iterdir()) == []
    assert cache.find(("key",)) is None


def test_a_damaged_layer_is_detected_and_deleted(files: dict[str, Path], tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache")
    layer = cache.build(recipe(files), Compression.ZSTD)
    blob = tmp_path / "cache" / "blobs" / "sha256" / layer.digest.removeprefix("sha256:")
    blob.write_bytes(b"x" * layer.size_bytes)

    with pytest.raises(ImageError, match="damaged"):
        list(cache.stream(layer))
    assert cache.find(("key",)) is None


def test_trimming_deletes_the_least_recently_used(files: dict[str, Path], tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache")
    names = list(files)
    old = cache.build(recipe({names[0]: files[names[0]]}, key="old"), Compression.ZSTD)
    new = cache.build(recipe({names[1]: files[names[1]]}, key="new"), Compression.ZSTD)
    os.utime(tmp_path / "cache" / "blobs" / "sha256" / old.digest.removeprefix("sha256:"), (1, 1))

    cache.trim(new.size_bytes)

    assert (cache.find(("old",)), cache.find(("new",))) == (None, new)

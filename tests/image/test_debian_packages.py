"""Debian packages: their resolution, verification and files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.base.files import BaseFiles
from mlflow_fargate.image.debian import make_system_recipe
from mlflow_fargate.image.debian.archive import Archive
from mlflow_fargate.image.debian.control import (
    DebianPackage,
    Relation,
    parse_paragraphs,
    parse_relations,
    parse_status,
    version_key,
)
from mlflow_fargate.image.debian.resolve import resolve
from mlflow_fargate.image.debian.system import merged_files
from mlflow_fargate.image.debian.unpack import unpack_deb
from mlflow_fargate.image.layers.layer import Compression
from mlflow_fargate.image.oci.platforms import LINUX_AMD64, LINUX_ARM64, Platform

BOOKWORM = {"ID": "debian", "VERSION_CODENAME": "bookworm", "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)"}
BASE = (
    "Package: libc6\nStatus: install ok installed\nVersion: 2.36-9+deb12u10\n\n"
    "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
    "Package: broken\nStatus: install reinstreq half-installed\nVersion: 1\n\n"
    "Package: purged\nStatus: purge ok not-installed\nVersion: 1\n\n"
    "Package: gcc-12-base\nStatus: install ok installed\nVersion: 12.2.0-14+deb12u1\n"
)


def ignore(_note: str) -> None:
    pass


def test_versions_sort_as_in_debian_policy() -> None:
    ascending = ["1.0~~", "1.0~~a", "1.0~", "1.0", "1.0-1", "1.0-1+b1", "1.0a", "1.0+dfsg", "1.2", "1.10", "1:0.1"]

    assert sorted(set(ascending), key=version_key) == ascending
    assert version_key("12.2.0-14+deb12u1") < version_key("12.2.0-14+deb12u1+")
    assert version_key("1." + "9" * 5000) < version_key("1.1" + "0" * 5000)
    assert version_key("1.0") == version_key("0:1.0-0") == version_key("1.0-0")


@given(st.text(st.sampled_from("019az~+.-:"), max_size=12))
def test_any_text_can_be_sorted_as_a_version(text: str) -> None:
    assert version_key(text) == version_key(text)
    assert (version_key(text) < version_key("1.0")) != (version_key(text) >= version_key("1.0"))


def test_relations_are_parsed_with_alternatives_and_versions() -> None:
    assert parse_relations("libc6 (>= 2.34), a:any | b (<< 2),,") == (
        (Relation("libc6", ">=", "2.34"),),
        (Relation("a"), Relation("b", "<<", "2")),
    )


def test_paragraphs_keep_multiline_fields() -> None:
    assert list(parse_paragraphs("A: 1\nB: x\n y\n\nA: 2\n")) == [{"A": "1", "B": "x\ny"}, {"A": "2"}]


def test_only_installed_packages_count() -> None:
    assert [package.name for package in parse_status(BASE)] == ["libc6", "gcc-12-base"]


def offered(name: str, version: str = "1", depends: str = "", provides: str = "") -> DebianPackage:
    fields = {"Package": name, "Version": version, "Depends": depends, **({"Provides": provides} if provides else {})}
    return DebianPackage.of_paragraph(fields)


def test_the_newest_version_is_added_with_missing_dependencies() -> None:
    archive = [
        offered("libgl1", "1", "libglx0 (= 1), libc6 (>= 2.3)"),
        offered("libgl1", "1+deb12u1", "libglx0 (>= 1), libc6 (>= 2.3)"),
        offered("libglx0", "1", "libgl1-mesa | virtual-glx"),
        offered("mesa", "1", provides="virtual-glx"),
        offered("libc6", "2.36-9+deb12u13"),
    ]

    found = resolve(["libgl1"], archive, parse_status(BASE))

    assert [(one.name, one.version) for one in found] == [("libgl1", "1+deb12u1"), ("libglx0", "1"), ("mesa", "1")]


def test_nothing_is_added_to_a_base_that_has_the_package() -> None:
    assert resolve(["libc6"], [offered("libc6", "3")], parse_status(BASE)) == ()


def test_packages_that_depend_on_each_other_are_added_once() -> None:
    circle = [offered("a", depends="b"), offered("b", depends="a")]

    assert [one.name for one in resolve(["a"], circle, ())] == ["a", "b"]


def test_an_unknown_package_is_refused_with_similar_names() -> None:
    with pytest.raises(ImageError, match=r"(?s)no package libgomp2 .*did you mean libgomp1"):
        resolve(["libgomp2"], [offered("libgomp1")], ())


@pytest.mark.parametrize("release", [{"ID": "alpine", "PRETTY_NAME": "Alpine Linux"}, {}, {**BOOKWORM, "ID": "ubuntu"}])
def test_a_base_other_than_debian_is_refused(release: Mapping[str, str], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="requires a Debian base image"):
        make(BaseFiles((), release, BASE), tmp_path, ["libgomp1"])


def test_nothing_is_added_to_the_local_stacks_base_if_the_machine_is_not_debian(tmp_path: Path) -> None:
    notes: list[str] = []

    recipe = make_system_recipe(
        ["libgomp1"],
        BaseFiles((), {"ID": "ubuntu", "VARIANT_ID": "mlflow-fargate"}, BASE),
        platform=LINUX_AMD64,
        compression=Compression.ZSTD,
        cache=tmp_path,
        note=notes.append,
    )

    assert recipe is None
    assert "libgomp1 not added" in notes[0]


def make(base: BaseFiles, cache: Path, names: list[str], platform: Platform = LINUX_AMD64):  # type: ignore[no-untyped-def]
    return make_system_recipe(names, base, platform=platform, compression=Compression.ZSTD, cache=cache, note=ignore)


def make_deb(path: Path, data: Mapping[str, bytes | str], control: Mapping[str, str]) -> Path:
    """Writes a .deb with these files; a str is the target of a link."""
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": make_tar({f"./{name}": text.encode() for name, text in control.items()}),
        "data.tar.xz": make_tar(data),
    }
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in members.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return path


def make_tar(files: Mapping[str, bytes | str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def test_files_go_to_the_merged_usr_and_links_become_files(tmp_path: Path) -> None:
    data: dict[str, bytes | str] = {
        "./lib/x86_64-linux-gnu/liba.so.1.2": b"ELF",
        "./usr/lib/x86_64-linux-gnu/liba.so.1": "/lib/x86_64-linux-gnu/liba.so.1.2",
        "./usr/lib/x86_64-linux-gnu/liba.so": "liba.so.1",
        "./usr/share/doc/liba/changelog.gz": b"long",
        "./usr/share/doc/liba/copyright": b"MIT",
        "./usr/share/man/man1/a.1": b"long",
        "./usr/bin/elsewhere": "/etc/alternatives/elsewhere",
    }
    deb = unpack_deb(make_deb(tmp_path / "a.deb", data, {"control": "Package: liba\n"}), tmp_path / "out")
    notes: list[str] = []

    found = merged_files([offered("liba")], [deb], tmp_path, notes.append)

    folder = "usr/lib/x86_64-linux-gnu"
    assert sorted(found) == [
        f"{folder}/liba.so",
        f"{folder}/liba.so.1",
        f"{folder}/liba.so.1.2",
        "usr/share/doc/liba/copyright",
        "var/lib/dpkg/status.d/liba",
    ]
    assert found[f"{folder}/liba.so"] == found[f"{folder}/liba.so.1.2"]
    assert "/usr/bin/elsewhere" in notes[0]


@pytest.mark.parametrize("name", ["../../etc/passwd", "./usr/../../etc/passwd"])
def test_a_package_with_a_path_outside_the_image_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is outside the image"):
        unpack_deb(make_deb(tmp_path / "a.deb", {name: b"x"}, {}), tmp_path / "out")


def test_a_file_that_is_not_a_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(b"<html>")

    with pytest.raises(ImageError, match="is not a Debian package"):
        unpack_deb(tmp_path / "a.deb", tmp_path / "out")


def test_scripts_are_noted_and_a_package_with_an_essential_script_is_refused(tmp_path: Path) -> None:
    harmless = unpack_deb(make_deb(tmp_path / "a.deb", {}, {"postinst": "ldconfig"}), tmp_path / "a")
    notes: list[str] = []

    merged_files([offered("a")], [harmless], tmp_path, notes.append)

    assert notes == ["skipped the postinst script of a"]
    harmful = unpack_deb(
        make_deb(tmp_path / "b.deb", {}, {"postinst": "update-alternatives --install"}), tmp_path / "b"
    )
    with pytest.raises(ImageError, match=r"package b does not work without its postinst.*update-alternatives"):
        merged_files([offered("b")], [harmful], tmp_path, ignore)


@pytest.mark.slow
def test_a_modified_release_file_is_refused(tmp_path: Path) -> None:
    archive = Archive("bookworm", "amd64", cache=tmp_path)
    get = archive._get

    def tampered(url: str, limit_bytes: int) -> bytes:
        return get(url, limit_bytes).replace(b"Codename: bookworm", b"Codename: wormbook")

    archive._get = tampered  # type: ignore[method-assign]
    with pytest.raises(ImageError, match="is not signed by Debian"):
        archive.packages()


@pytest.mark.slow
def test_the_signed_release_file_of_another_suite_is_refused(tmp_path: Path) -> None:
    archive = Archive("bookworm", "amd64", cache=tmp_path)
    get = archive._get

    def swapped(url: str, limit_bytes: int) -> bytes:
        return get(url.replace("/dists/bookworm/", "/dists/bookworm-updates/"), limit_bytes)

    archive._get = swapped  # type: ignore[method-assign]
    with pytest.raises(ImageError, match=r"dists/bookworm/InRelease belongs to another release: bookworm-updates"):
        archive.packages()


def test_nothing_is_downloaded_without_a_signature_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    archive = Archive("bookworm", "amd64", cache=tmp_path)
    monkeypatch.setattr(archive, "_get", lambda *_: pytest.fail("fetched"))

    with pytest.raises(ImageError, match="neither sqv nor gpgv is installed"):
        archive.packages()


@pytest.mark.exhaustive
@pytest.mark.parametrize(("platform", "machine"), [(LINUX_AMD64, "x64"), (LINUX_ARM64, "AArch64")])
def test_libgomp_comes_from_debian_for_either_architecture(platform: Platform, machine: str, tmp_path: Path) -> None:
    recipe = make(BaseFiles((), BOOKWORM, BASE), tmp_path, ["libgomp1"], platform)
    again = make(BaseFiles((), BOOKWORM, BASE), tmp_path / "empty", ["libgomp1"], platform)

    assert recipe.key == again.key
    with recipe.files() as files:
        assert {name.rpartition("/")[2] for name in files} == {"libgomp.so.1", "libgomp.so.1.0.0", "libgomp1"}
        library = next(path for name, path in files.items() if name.endswith(".so.1"))
        with library.open("rb") as file:
            assert ELFFile(file).get_machine_arch() == machine

"""Unpacks the files of a .deb for an image: without documentation, and without running anything.

Source: deb(5): an `ar` archive of debian-binary, control.tar and data.tar.
"""

from __future__ import annotations

import gzip
import io
import lzma
import posixpath
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

from mlflow_fargate.errors import ImageError

_MAGIC = b"!<arch>\n"
# What Debian's slim images exclude (dpkg's path-exclude), except licenses.
_LEFT_OUT = re.compile(r"usr/share/(man|info|lintian|locale|bug|gtk-doc)/.*|usr/share/doc/(?!.*/copyright$).*")
# In every current base these are links into /usr; a folder with that name in a layer would replace the link.
_MERGED = re.compile(r"(bin|sbin|lib(64|32)?)/")
_SCRIPTS = ("preinst", "postinst")


@dataclass(frozen=True)
class UnpackedDeb:
    """A package's files on disk, its links, and the scripts that dpkg would have run."""

    control: str
    files: dict[str, Path]  # path in the image → file here
    links: dict[str, str]  # path in the image → path in the image
    scripts: dict[str, str]  # preinst, postinst


def unpack_deb(deb: Path, into: Path) -> UnpackedDeb:
    """Unpacks `deb` into `into`; raises ImageError if it is not a package, or if a path leaves the image."""
    members = dict(_read_ar(deb))
    control: dict[str, str] = {}
    files: dict[str, Path] = {}
    links: dict[str, str] = {}
    try:
        with _open_tar(members, "control.tar") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content:
                    control[_place(member.name, deb)] = content.read().decode(errors="replace")
        with _open_tar(members, "data.tar") as archive:
            for member in archive:
                name = _place(member.name, deb)
                if member.issym():
                    links[name] = _place(posixpath.join("/", posixpath.dirname(name), member.linkname), deb)
                elif member.islnk():
                    links[name] = _place(member.linkname, deb)
                elif member.isfile() and not _LEFT_OUT.fullmatch(name):
                    files[name] = _extract(archive, member, into / name)
    except (tarfile.TarError, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError, KeyError) as error:
        raise ImageError(f"{deb.name} is not a readable Debian package: {error}.") from error
    scripts = {name: control[name] for name in _SCRIPTS if name in control}
    kept_links = {name: target for name, target in links.items() if not _LEFT_OUT.fullmatch(name)}
    return UnpackedDeb(control.get("control", ""), files, kept_links, scripts)


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> Path:
    content = archive.extractfile(member)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.read() if content else b"")
    path.chmod(0o755 if member.mode & 0o100 else 0o644)
    return path


def _place(name: str, deb: Path) -> str:
    """Returns the path within the image, with /usr merged; raises ImageError for a path outside of it."""
    path = posixpath.normpath(name.lstrip("/"))
    if path.startswith("../") or path == ".." or "\0" in path:
        raise ImageError(f"{deb.name} contains a file {name!r}, which is outside the image.")
    return f"usr/{path}" if _MERGED.match(path) else path


def _open_tar(members: dict[str, bytes], name: str) -> tarfile.TarFile:
    found = next(key for key in members if key.startswith(name))
    packed, suffix = members[found], found.removeprefix(name)
    plain = {".xz": lzma.decompress, ".gz": gzip.decompress, ".zst": _unzstd, "": bytes}[suffix](packed)
    return tarfile.open(fileobj=io.BytesIO(plain))  # the caller closes it


def _unzstd(packed: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(packed).read()


def _read_ar(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ImageError(f"{path.name} is not a Debian package.")
        while len(header := file.read(60)) == 60:
            size_bytes = int(header[48:58])
            yield header[:16].decode().strip().rstrip("/"), file.read(size_bytes)
            file.read(size_bytes % 2)

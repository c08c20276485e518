"""The content of a base image that matters: its system, its Python, its C library and others, its Debian packages.

Read once per base, by streaming its layers, and cached by the digest of its manifest:

    {cache}/bases/HEX.json
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from mlflow_fargate import atomic_files
from mlflow_fargate.image.base.base_image import Base
from mlflow_fargate.image.layers.members import Kept, Stack
from mlflow_fargate.image.packages.shared_libraries import LIBRARY_NAME, defined_glibc
from mlflow_fargate.progress import Progress

# The local stack's base image: its files are this machine's, without most of the system's packages.
_THIS_MACHINE = "mlflow-fargate"
_TEXTS = re.compile(r"(etc|usr/lib)/os-release|var/lib/dpkg/status(\.d/[^/]+)?")
_PYTHON = re.compile(r"(?:.*/)?bin/python(3\.\d+)")
_GLIBC = re.compile(r"(?:.*/)?(libc\.so\.6|libc-2\.\d+\.so)")  # the second until 2.33, where libc.so.6 is a link
_STANDARD_LIBRARY = re.compile(r"usr/local/lib/python3\.\d+/(os\.py|__pycache__/os\.[\w-]+\.pyc)")
_LIMIT_BYTES = 16 << 20
_TOTAL_LIMIT_BYTES = 64 << 20  # of what is kept of all files


@dataclass(frozen=True)
class BaseFiles:
    """The parts of a base's files that matter to the layers added to it."""

    libraries: tuple[str, ...]  # file names: libc.so.6
    release: Mapping[str, str] = field(hash=False)  # os-release: ID, VERSION_CODENAME, …
    packages: str = field(default="", repr=False)  # paragraphs of dpkg's status; "": no Debian packages
    pythons: tuple[str, ...] = ()  # minor versions, of programs called python3.X
    glibc: str | None = None  # 2.36; None: not found
    standard_libraries: tuple[str, ...] = ()  # the paths of os.py and its bytecode in /usr/local/lib/python3.X

    @property
    def is_this_machine(self) -> bool:
        return self.release.get("VARIANT_ID") == _THIS_MACHINE

    @property
    def system(self) -> str:
        """The system's name, for display."""
        return self.release.get("PRETTY_NAME") or self.release.get("ID") or "an unknown system"

    @property
    def has_musl(self) -> bool:
        return "libc.so.6" not in self.libraries and any(name.startswith("ld-musl-") for name in self.libraries)


def read_base_files(base: Base, *, cache: Path, progress: Progress) -> BaseFiles:
    """Returns the base's files, from `cache` if read before; raises RegistryError if its layers cannot be read."""
    path = cache / "bases" / f"{base.image.manifest_digest.partition(':')[2]}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(path.read_text())
        lists = ("libraries", "pythons", "standard_libraries")
        return BaseFiles(**{**known, **{name: tuple(known[name]) for name in lists}})
    progress.note(f"scanning base image {base.reference}")
    stack: Stack[str] = Stack(_TOTAL_LIMIT_BYTES, len)
    found = read_layers(base, stack, _text_of)
    files = BaseFiles(
        libraries=tuple(sorted({PurePosixPath(name).name for name in found if LIBRARY_NAME.fullmatch(name)})),
        release=_parse_release(found.get("etc/os-release") or found.get("usr/lib/os-release") or ""),
        packages="\n\n".join(text for name, text in sorted(found.items()) if name.startswith("var/lib/dpkg/")),
        pythons=tuple(sorted({python[1] for python in map(_PYTHON.fullmatch, found) if python})),
        glibc=next((text for name, text in sorted(found.items()) if text and _GLIBC.fullmatch(name)), None),
        standard_libraries=tuple(sorted(name for name in found if _STANDARD_LIBRARY.fullmatch(name))),
    )
    atomic_files.write(path, json.dumps(asdict(files)))
    return files


def read_layers(base: Base, stack: Stack[Kept], keep: Callable[..., Kept | None]) -> dict[str, Kept]:
    """Returns what is kept of all layers of the base (members.py)."""
    for layer in base.image.layers:
        blob = base.registry.stream_blob(base.reference.repository, layer)
        stack.add(blob, layer.media_type, f"Layer {layer.digest} of the base image {base.reference}", keep)
    return stack.files


def _text_of(name: str, member: tarfile.TarInfo, content: Callable[[], IO[bytes]]) -> str | None:
    """Returns a text, the version of a C library, or "" if only the name matters; None: the file does not."""
    if member.isdir():
        return None
    if member.isfile() and member.size <= _LIMIT_BYTES:
        if _TEXTS.fullmatch(name):
            return content().read().decode(errors="replace")
        if _GLIBC.fullmatch(name):
            return defined_glibc(io.BytesIO(content().read())) or ""
    return "" if any(pattern.fullmatch(name) for pattern in (LIBRARY_NAME, _PYTHON, _STANDARD_LIBRARY)) else None


def _parse_release(text: str) -> dict[str, str]:
    """Source: os-release(5)."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}

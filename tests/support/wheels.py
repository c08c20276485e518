"""Small wheels, written byte by byte."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def write_wheel(
    path: Path, *, requires: Iterable[str] = (), files: Mapping[str, str] | None = None, metadata: str = ""
) -> Path:
    """Writes the wheel that the file's name says, with a module of the package's name; `metadata` is appended."""
    name, version, *_, python, abi, platform = path.stem.split("-")
    headers = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"]
    headers += [f"Requires-Dist: {one}\n" for one in requires]
    contents = {
        f"{name}.py": f'VERSION = "{version}"\n',
        f"{name}-{version}.dist-info/METADATA": "".join(headers) + metadata,
        f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
        f"Tag: {python}-{abi}-{platform}\n",
        **(files or {}),
    }
    record = "".join(f"{one},,\n" for one in [*contents, f"{name}-{version}.dist-info/RECORD"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for one, content in {**contents, f"{name}-{version}.dist-info/RECORD": record}.items():
            archive.writestr(one, content)
    return path

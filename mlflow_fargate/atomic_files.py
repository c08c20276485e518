"""Files that are whole or absent, even when several processes write the same one or one of them is killed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, data: str | bytes, *, mode: int = 0o666) -> None:
    """Replace the file with `data` (text as UTF-8), on disk when this returns; of several writers the last one wins.

    Missing folders are created. `mode` is the file's from its first byte on, less the umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft(path.parent) as unfinished:
        unfinished.touch(mode, exist_ok=False)
        with unfinished.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())  # else a crash of the machine can leave the new name with no content
        unfinished.replace(path)


@contextmanager
def draft(folder: Path) -> Iterator[Path]:
    """A name in `folder` that no other writer has. What is still there under it at the end is deleted."""
    path = folder / f".{secrets.token_hex(8)}.unfinished"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)

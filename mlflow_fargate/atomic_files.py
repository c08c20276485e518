"""Writes files atomically, also when several processes write the same file or one is killed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, data: str | bytes, *, mode: int = 0o666) -> None:
    """Replaces the file with `data` (text as UTF-8) and flushes it to disk; the last of several writers wins.

    Creates missing folders. The file has `mode`, less the umask, from the start.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with draft(path.parent) as unfinished:
        unfinished.touch(mode, exist_ok=False)
        with unfinished.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())  # otherwise a crash of the machine can leave an empty file under the new name
        unfinished.replace(path)


@contextmanager
def draft(folder: Path) -> Iterator[Path]:
    """Yields a path in `folder` that no other writer uses; deletes the file if it still exists at the end."""
    path = folder / f".{secrets.token_hex(8)}.unfinished"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)

"""Files that are whole or absent, even when several processes write the same one or one of them is killed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(path: Path, data: str | bytes, *, mode: int = 0o666) -> None:
    """Replaces the file with `data` (text as UTF-8), synced to disk on return; the last of several writers wins.

    Missing folders are created. The file has `mode`, minus the umask, from its creation.
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
    """Yields a unique path in `folder`; deletes it at the end if it still exists."""
    path = folder / f".{secrets.token_hex(8)}.unfinished"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)

"""An upload session of the local OCI registry; store.py starts, finishes and cancels it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path


class Upload:
    """An upload session: bytes are written to a file and hashed with SHA-256 in one pass, never all in memory."""

    def __init__(self, repository: str, path: Path) -> None:
        self.id = path.name
        self.repository = repository
        self.path = path
        self.size_bytes = 0
        self.touched_at = time.time()
        self._sha256 = hashlib.sha256()
        path.touch()

    def append(self, chunks: Iterable[bytes]) -> None:
        with self.path.open("ab") as file:
            for chunk in chunks:
                file.write(chunk)
                self._sha256.update(chunk)
                self.size_bytes += len(chunk)
                self.touched_at = time.time()

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"

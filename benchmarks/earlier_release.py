"""The files of an earlier commit, below build/: what benchmarks compare this release with."""

from __future__ import annotations

import subprocess
from pathlib import Path

BEFORE = "c42c9e7"
_ROOT = Path(__file__).parent.parent


def earlier_release() -> Path:
    """Returns the folder with the files of the commit."""
    folder = _ROOT / "build" / BEFORE
    if not folder.exists():
        folder.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", BEFORE], cwd=_ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder

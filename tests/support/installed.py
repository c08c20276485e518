"""Programs of PyPI in environments of their own in build/, because they pin boto3 and much else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import uv
from filelock import FileLock

_BUILD = Path(__file__).resolve().parents[2] / "build"


def installed(package: str, version: str) -> Path:
    """Returns the folder of the package's programs; skips where it cannot be installed."""
    folder = _BUILD / f"{package}-{version}"
    _BUILD.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "installed").exists():
            python = str(folder / "bin" / "python")
            for command in (
                ["venv", "-q", "--clear", "--python", sys.executable, str(folder)],
                ["pip", "install", "-q", "--python", python, f"{package}=={version}"],
            ):
                done = subprocess.run([uv.find_uv_bin(), *command], capture_output=True, text=True, check=False)
                if done.returncode:
                    pytest.skip(f"{package} {version} cannot be installed: {done.stderr.strip()[-300:]}")
            (folder / "installed").touch()
    return folder / "bin"

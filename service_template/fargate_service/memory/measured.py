"""Measures the memory of this process on Linux; elsewhere nothing is known, and there is no budget."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
# malloc.h
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


def resident_bytes() -> int:
    """Returns the memory of this process, and of BentoML's supervisor if that is its parent; 0 if unknown.

    Pages of files, such as libraries, count half: the system can drop them and read them again, but not all the time.
    """
    parent = _PROC / str(os.getppid())
    own = _needed_bytes(_PROC / "self")
    with suppress(OSError):
        if b"bentoml" in (parent / "cmdline").read_bytes():
            return own + _needed_bytes(parent)
    return own


def peak_bytes(work: Callable[[], object]) -> int | None:
    """Runs `work` and returns how far this process's memory rose meanwhile; None if that cannot be measured."""
    try:
        (_PROC / "self" / "clear_refs").write_text("5", encoding="ascii")  # resets VmHWM; see proc(5)
        before = _status_bytes(_PROC / "self", "VmRSS")
    except OSError:
        before = None
    work()
    return None if before is None else max(0, _status_bytes(_PROC / "self", "VmHWM") - before)


def return_freed_memory() -> None:
    """Makes malloc return large blocks to the system at once, and share its pools among all threads.

    By default each of many threads keeps what it has freed, and the process grows far beyond what is in use.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def _needed_bytes(process: Path) -> int:
    return (
        sum(_status_bytes(process, name) for name in ("RssAnon", "RssShmem")) + _status_bytes(process, "RssFile") // 2
    )


def _status_bytes(process: Path, field: str) -> int:
    with suppress(OSError):
        for line in (process / "status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0

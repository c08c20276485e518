"""Measures the memory of this process on Linux; elsewhere nothing is known, and there is no budget."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_SELF = Path("/proc/self")
# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def resident_bytes() -> int:
    """Returns the memory of this process; 0 if unknown.

    Pages of files, such as libraries, count half: the system can drop them and read them again, but not all the time.
    """
    return _status_bytes("RssAnon") + _status_bytes("RssShmem") + _status_bytes("RssFile") // 2


def peak_bytes(work: Callable[[], object]) -> int | None:
    """Runs `work` and returns how far this process's memory rose meanwhile; None if that cannot be measured."""
    try:
        (_SELF / "clear_refs").write_text("5", encoding="ascii")  # resets VmHWM; see proc(5)
        before = _status_bytes("VmRSS")
    except OSError:
        before = None
    work()
    return None if before is None else max(0, _status_bytes("VmHWM") - before)


def return_freed_memory() -> None:
    """Makes malloc return large blocks to the system at once, and share its pools among all threads.

    By default each of many threads keeps what it has freed, and the process grows far beyond what is in use.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 2)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        # A body of half a megabyte and its copies: returned and taken again, their pages take a tenth of its time.
        libc.mallopt(_M_TRIM_THRESHOLD, 4 << 20)


def _status_bytes(name: str) -> int:
    with suppress(OSError):
        for line in (_SELF / "status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0

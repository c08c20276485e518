"""Ends processes that tests started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess


def stop_group(process: subprocess.Popen[bytes], timeout_seconds: float) -> None:
    """Terminates a process that was started with `start_new_session`, and kills what is left of its group.

    It may have ended already. Raises TimeoutExpired, after killing it, if SIGTERM did not end it in time.
    """
    try:
        process.terminate()
        process.wait(timeout_seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

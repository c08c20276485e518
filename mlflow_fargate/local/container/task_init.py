"""A task's init process (`initProcessEnabled`): starts the command, forwards SIGTERM, leaves no process behind.

A separate program that only uses the standard library: python -I -S task_init.py COMMAND [ARGUMENT …]

Its standard input is a pipe that the stack holds open and never writes to. When the pipe closes, because the stack
kills the task or was killed itself, all descendants of this process are killed. Servers such as BentoML's start workers
in new sessions, so killing a process group is not enough: as a "subreaper", this process becomes the parent of every
orphan. Its exit code is the command's, or 128 + N after signal N.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_IS_LINUX = sys.platform.startswith("linux")


def main(command: list[str]) -> int:
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent if _IS_LINUX else None,  # noqa: PLW1509  # no thread has started yet
        )
    except OSError as error:
        print(f"exec: {command[0]!r}: {error.strerror}", file=sys.stderr, flush=True)  # noqa: T201
        return 127
    signal.signal(signal.SIGTERM, lambda *_: _signal_group(child.pid, signal.SIGTERM))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stack handles Ctrl-C and stops its tasks in order
    threading.Thread(target=_kill_when_abandoned, args=(child.pid,), daemon=True).start()
    code = _wait_for(child.pid)
    _kill_all(child.pid)
    return code


def _die_with_parent() -> None:
    # After kill -9 of this process, at least the command ends too.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if _IS_LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _kill_when_abandoned(child: int) -> None:
    while os.read(0, 1024):
        pass
    # main() notices its exit and ends the rest.
    _signal_group(child, signal.SIGKILL)


def _wait_for(child: int) -> int:
    """Returns the child's exit code; reaps orphans in the meantime."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _kill_all(child: int) -> None:
    """Kills every descendant; repeats until none is left, because orphaned children are reparented to this process."""
    _signal_group(child, signal.SIGKILL)
    for _ in range(1000):
        children = _children()
        if not children:
            return
        for pid in children:
            _signal(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        return []
    return [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

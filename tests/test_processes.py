"""How tests end the processes that they started."""

from __future__ import annotations

import subprocess

import psutil
import pytest

from support.serving_process import stop_group


def start(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)


def test_a_process_that_ended_is_stopped_without_an_error() -> None:
    with start("exit 3") as process:
        assert process.wait(10) == 3

        stop_group(process, 10)

    assert process.returncode == 3


def test_what_a_dead_server_left_running_is_stopped() -> None:
    with start("sleep 60 >/dev/null & echo $!") as process:
        worker = psutil.Process(int(process.communicate(timeout=10)[0]))

        stop_group(process, 10)

    psutil.wait_procs([worker], timeout=10)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_a_server_that_ignores_sigterm_is_killed() -> None:
    with start("trap '' TERM; echo up; while :; do sleep 0.1; done") as process:
        assert process.stdout is not None
        process.stdout.readline()

        with pytest.raises(subprocess.TimeoutExpired):
            stop_group(process, 0.3)

    assert process.returncode == -9

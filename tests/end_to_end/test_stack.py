"""The local stack as a whole: only one at a time, on loopback, and found by its state file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.conftest import processes_with

pytestmark = [pytest.mark.end_to_end]

COMMAND = str(Path(sys.executable).parent / "mlflow-fargate")


def status() -> dict[str, object]:
    found: dict[str, object] = json.loads(subprocess.check_output([COMMAND, "local", "status", "--json"], text=True))
    return found


def test_a_second_stack_is_refused(local_stack: dict[str, str]) -> None:
    done = subprocess.run([COMMAND, "local", "up"], capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 1
    assert "A local stack is already running" in done.stderr


@pytest.mark.exhaustive
def test_starting_it_again_in_the_background_returns_the_running_one(local_stack: dict[str, str]) -> None:
    before = status()["pid"]

    subprocess.run([COMMAND, "local", "up", "--detach"], check=True, timeout=120)

    assert status()["pid"] == before


def test_everything_listens_on_loopback_only(local_stack: dict[str, str]) -> None:
    stack = psutil.Process(status()["pid"])  # type: ignore[arg-type]
    everyone = [stack, *stack.children(recursive=True)]

    listening = [one for process in everyone for one in process.net_connections("inet") if one.status == "LISTEN"]

    assert len(listening) >= 4
    assert {one.laddr.ip for one in listening} == {"127.0.0.1"}


def heed_ctrl_c() -> None:
    """Restores SIGINT in a child: background processes of a shell ignore it, and so would their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.exhaustive
def test_ctrl_c_during_a_start_in_the_background_stops_the_started_parts(tmp_path: Path) -> None:
    environment = {**os.environ, "MLFLOW_FARGATE_CACHE": str(tmp_path)}
    command = [COMMAND, "local", "up", "--detach", "--engine", "process"]

    with subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509  # one call, and no thread
    ) as starting:
        try:
            assert starting.stderr is not None
            starting.stderr.readline()  # the first line of the background process
            starting.send_signal(signal.SIGINT)
            _, said = starting.communicate(timeout=120)
        finally:
            starting.kill()

    assert starting.returncode == 1
    assert "stopping the parts already started" in said
    assert "Traceback" not in said
    assert processes_with(str(tmp_path)) == []

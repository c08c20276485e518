"""The local stack as a whole: alone, on loopback, and known by its state file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.end_to_end]

COMMAND = str(Path(sys.executable).parent / "mlflow-fargate")


def status() -> dict[str, object]:
    found: dict[str, object] = json.loads(subprocess.check_output([COMMAND, "local", "status", "--json"], text=True))
    return found


def test_a_second_stack_is_refused(local_stack: dict[str, str]) -> None:
    done = subprocess.run([COMMAND, "local", "up"], capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 1
    assert "A local stack runs already" in done.stderr


def test_starting_it_again_in_the_background_finds_the_one_that_runs(local_stack: dict[str, str]) -> None:
    before = status()["pid"]

    subprocess.run([COMMAND, "local", "up", "--detach"], check=True, timeout=120)

    assert status()["pid"] == before


def test_everything_listens_on_loopback_only(local_stack: dict[str, str]) -> None:
    stack = psutil.Process(status()["pid"])  # type: ignore[arg-type]
    everyone = [stack, *stack.children(recursive=True)]

    listening = [one for process in everyone for one in process.net_connections("inet") if one.status == "LISTEN"]

    assert len(listening) >= 4
    assert {one.laddr.ip for one in listening} == {"127.0.0.1"}

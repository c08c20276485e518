"""The rules of the stack itself; the end-to-end tests run it as a whole."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.local import running, stack
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.target import local_state_file, process_start, read_local_state

STATE = {
    "pid": os.getpid(),
    "region": "us-east-1",
    "aws_endpoint_url": "http://127.0.0.1:1",
    "access_key_id": "local",
    "secret_access_key": "local",
    "registry": "127.0.0.1:2",
    "registry_mirrors": {},
    "mlflow_tracking_uri": "http://127.0.0.1:3",
    "load_balancer_url": "http://127.0.0.1:4",
    "engine": "process",
    "tasks": "processes, without isolation (--engine process)",
}


def test_a_stack_whose_folder_is_in_use_does_not_start_and_changes_nothing(tmp_path: Path) -> None:
    path = local_state_file(tmp_path)
    path.parent.mkdir()
    path.write_text(json.dumps(STATE))
    with (
        FileLock(tmp_path / "local" / "stack.lock"),
        pytest.raises(LocalStackError, match="already running"),
        stack.LocalStack(tmp_path / "local", RecordedProgress()),
    ):
        pass

    assert read_local_state(tmp_path) == STATE


def test_starting_in_the_background_returns_the_running_stack(tmp_path: Path) -> None:
    path = local_state_file(tmp_path)
    path.parent.mkdir()
    path.write_text(json.dumps(STATE))

    assert running.start_detached(tmp_path, RecordedProgress()) == STATE


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose name looks like the fields that follow it in /proc/PID/stat."""
    program = tmp_path / "a) S 1 2 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as process:
        yield process
        process.kill()


def test_a_process_that_got_the_pid_of_a_killed_stack_is_not_stopped(
    tmp_path: Path, other_process: subprocess.Popen[bytes]
) -> None:
    started = process_start(other_process.pid)
    assert started is not None
    path = local_state_file(tmp_path)
    path.parent.mkdir()
    path.write_text(json.dumps({**STATE, "pid": other_process.pid, "process_start": started - 1}))

    assert read_local_state(tmp_path) is None
    assert not running.stop_running(tmp_path, RecordedProgress())
    assert other_process.poll() is None


def test_stopping_ends_the_process_that_wrote_the_file(tmp_path: Path, other_process: subprocess.Popen[bytes]) -> None:
    path = local_state_file(tmp_path)
    path.parent.mkdir()
    started = process_start(other_process.pid)
    path.write_text(json.dumps({**STATE, "pid": other_process.pid, "process_start": started}))

    assert running.stop_running(tmp_path, RecordedProgress())
    assert process_start(other_process.pid) is None


def test_stopping_without_a_running_stack_is_not_an_error(tmp_path: Path) -> None:
    assert not running.stop_running(tmp_path, RecordedProgress())


def test_the_environment_points_mlflow_and_aws_tools_to_the_stack() -> None:
    variables = running.environment(STATE)

    assert variables["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:3"
    assert variables["MLFLOW_S3_ENDPOINT_URL"] == variables["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"


def test_systems_other_than_linux_are_refused() -> None:
    with pytest.raises(LocalStackError, match="system is 'darwin'"):
        stack._check_platform("darwin")


def test_progress_of_a_stack_in_the_background_has_one_clock(tmp_path: Path) -> None:
    log = tmp_path / "stack.log"
    log.write_text(
        "[   1.2s] Starting AWS\n[ 132.0s]   waiting for MLflow, 10 s\nTraceback [2.0s] kept\n[   2.0s] not comp"
    )
    progress = RecordedProgress()

    assert running._tell_new_lines(log, 0, progress) == 3
    assert progress.lines == ["Starting AWS", "  waiting for MLflow, 10 s", "Traceback [2.0s] kept"]

"""The local stack as another process: starts, stops and describes it, without importing its parts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from mlflow_fargate.errors import LocalStackError
from mlflow_fargate.local.container.engine_leftovers import remove_leftovers
from mlflow_fargate.progress import Progress
from mlflow_fargate.target import read_local_state

_START_SECONDS = 300
_STOP_SECONDS = 180  # a busy machine takes a minute to remove ten containers
_CLOCK = re.compile(r"^\[ *\d+\.\d+s\] ")  # of each line in the log of a stack in the background


def start_detached(
    cache: Path, progress: Progress, *, serve_artifacts: bool = False, engine: str = "process"
) -> dict[str, Any]:
    """Starts the stack as a process that outlives this one; returns the addresses of its parts."""
    if (state := read_local_state(cache)) is not None:
        progress.step("The local stack is already running")
        return state
    log = cache / "local" / "stack.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mlflow_fargate.cli", "local", "up", "--engine", engine]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "--serve-artifacts"] if serve_artifacts else command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        return _wait_until_started(process, cache, log, progress)
    except KeyboardInterrupt:
        progress.note("stopping the parts already started")
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:  # a start that takes long notices a signal only at its end
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise


def stop_running(cache: Path, progress: Progress) -> bool:
    """Stops the running stack; returns False if none was running. Removes containers that a killed stack left."""
    state = read_local_state(cache)
    if state is None:
        remove_leftovers(cache / "local" / "tasks")
        return False
    progress.step("Stopping the local stack (models and images are kept, deployments are not)")
    try:
        process = psutil.Process(state["pid"])
        process.terminate()
        process.wait(_STOP_SECONDS)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired as error:
        raise LocalStackError(f"The local stack (process {state['pid']}) did not stop in time.") from error
    return True


def describe(state: Mapping[str, Any]) -> str:
    """Returns a few lines for the user: the address of each part."""
    rows = {
        "status page": state["page_url"],
        "MLflow": state["mlflow_tracking_uri"],
        "deployed models": f"{state['load_balancer_url']}/NAME/",
        "AWS": state["aws_endpoint_url"],
        "image registry": state["registry"],
        "tasks": state["tasks"],
    }
    lines = [f"{title + ':':17}{value}" for title, value in rows.items()]
    return "\n".join([*lines, 'To use it from a shell:  eval "$(mlflow-fargate local env)"'])


def environment(state: Mapping[str, Any]) -> dict[str, str]:
    """Returns the environment variables that MLflow's clients and AWS tools need to use the stack."""
    return {
        "MLFLOW_TRACKING_URI": state["mlflow_tracking_uri"],
        "MLFLOW_S3_ENDPOINT_URL": state["aws_endpoint_url"],
        "MLFLOW_DEPLOYMENTS_TARGET": "fargate:/local",
        "AWS_ENDPOINT_URL": state["aws_endpoint_url"],
        "AWS_ACCESS_KEY_ID": state["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": state["secret_access_key"],
        "AWS_DEFAULT_REGION": state["region"],
    }


def _wait_until_started(process: subprocess.Popen[bytes], cache: Path, log: Path, progress: Progress) -> dict[str, Any]:
    deadline = time.monotonic() + _START_SECONDS
    told = 0
    while (state := read_local_state(cache)) is None:
        told = _tell_new_lines(log, told, progress)
        if process.poll() is not None or time.monotonic() > deadline:
            raise LocalStackError(f"The local stack did not start; its log is {log}:\n{_tail(log)}")
        time.sleep(0.2)
    return state


def _tell_new_lines(log: Path, told: int, progress: Progress) -> int:
    """Prints the log's complete lines after the first `told`; returns the number of complete lines."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    complete = [line for line in lines if line.endswith("\n")]
    for line in complete[told:]:
        progress.note(_CLOCK.sub("", line.rstrip()))  # `progress` adds its own
    return len(complete)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])

"""The local stack's session-manager-plugin: runs a command in a task, in the terminal where it was started.

A separate program that only uses the standard library, run with the arguments of AWS's plugin after one more:
python -I -S session_manager_plugin.py STATE SESSION REGION StartSession PROFILE REQUEST ENDPOINT

STATE is the file with the stack's keys, SESSION the JSON that ExecuteCommand returned. As with AWS's plugin, the exit
code is not the command's; as with ECS Exec's agent, what it started ends with the task.
"""

from __future__ import annotations

import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

_LOOK_SECONDS = 0.5


def main(arguments: list[str]) -> int:
    try:
        key = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))["secret_access_key"]
    except OSError as error:
        print(f"Cannot read the keys of the local stack ({error}); is it running?", file=sys.stderr)  # noqa: T201
        return 255
    session = json.loads(arguments[1])
    try:
        spec = _fetch(
            session["streamUrl"], hmac.new(key.encode(), session["tokenValue"].encode(), "sha256").hexdigest()
        )
    except urllib.error.URLError as error:
        print(f"Cannot perform start session: {error}", file=sys.stderr)  # noqa: T201
        return 255
    print(f"\nStarting session with SessionId: {session['sessionId']}", file=sys.stderr, flush=True)  # noqa: T201
    _run(spec)
    print(f"\nExiting session with sessionId: {session['sessionId']}.", file=sys.stderr)  # noqa: T201
    return 0


def _fetch(url: str, proof: str) -> dict[str, Any]:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {proof}"})  # noqa: S310  # the local AWS
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
        spec: dict[str, Any] = json.load(response)
    return spec


def _run(spec: dict[str, Any]) -> None:
    # Ctrl-C is for the command: both are in the terminal's foreground, and this process must ignore it.
    signal.signal(signal.SIGINT, lambda *_: None)
    environment = {**spec["environment"], **{name: os.environ[name] for name in ("TERM",) if name in os.environ}}
    try:
        child = subprocess.Popen(spec["command"], cwd=spec["working_directory"], env=environment)
    except OSError as error:
        print(f"exec: {spec['command'][0]!r}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return
    threading.Thread(target=_end_with_task, args=(spec["task_pid"], child), daemon=True).start()
    child.wait()


def _end_with_task(task_pid: int, child: subprocess.Popen[bytes]) -> None:
    while child.poll() is None:
        try:
            os.kill(task_pid, 0)
        except ProcessLookupError:
            child.kill()
            return
        except PermissionError:  # another user's process: it is running
            pass
        time.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

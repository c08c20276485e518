"""Sessions of ECS Exec: what ExecuteCommand answers with, and where the stand-in for the plugin fetches the rest.

AWS answers with the address of a stream and a token, which AWS's session-manager-plugin follows to the agent in the
task. So it is here: an address and a token, which this stack's own session-manager-plugin follows. A task is a process
of this machine, so the plugin need not carry keys and screens over a wire: it fetches how to join the task, once, and
does so in the terminal where it runs.

The token is in the plugin's arguments, as with AWS, which every user of this machine can read. So it is not enough: the
plugin signs it with the secret key of the stack, which it reads from the stack's state file.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_fargate.local.api.protocol import Answer
from mlflow_fargate.local.container.launch import JoinOrder
from mlflow_fargate.local.signature import Keys

PLUGIN = Path(__file__).parents[1] / "session_manager_plugin.py"
_PATH = "/execute-command-sessions/"
_MOST_OPEN = 100  # sessions that nobody fetched; the oldest goes


class ExecSessions:
    """Sessions that were opened and not yet followed, for those who have `keys`."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._open: dict[str, tuple[str, JoinOrder]] = {}

    def open(self, order: JoinOrder, host: str) -> dict[str, str]:
        """The `session` of ExecuteCommand's answer; `host` is where the client reached us."""
        while len(self._open) >= _MOST_OPEN:
            self._open.pop(next(iter(self._open)), None)
        identity, token = f"ecs-execute-command-{secrets.token_hex(8)}", secrets.token_urlsafe(32)
        self._open[identity] = (token, order)
        return {"sessionId": identity, "streamUrl": f"http://{host}{_PATH}{identity}", "tokenValue": token}

    def answers(self, environ: Mapping[str, Any]) -> bool:
        return str(environ.get("PATH_INFO", "")).startswith(_PATH)

    def follow(self, environ: Mapping[str, Any]) -> Answer:
        """How to join the task, for the one who shows the token, signed: once."""
        identity = str(environ["PATH_INFO"]).removeprefix(_PATH)
        token, order = self._open.get(identity, ("", None))
        shown = str(environ.get("HTTP_AUTHORIZATION", "")).removeprefix("Bearer ")
        wanted = hmac.new(self._keys.secret_access_key.encode(), token.encode(), "sha256").hexdigest()
        if order is None or not hmac.compare_digest(wanted.encode(), shown.encode()):
            said = b"There is no such session, or it was followed already; open another: mlflow-fargate exec\n"
            return Answer(403, {"Content-Type": "text/plain"}, said)
        del self._open[identity]
        body = {
            "command": order.command,
            "environment": dict(order.environment),
            "working_directory": str(order.working_directory),
            "task_pid": order.task_pid,
        }
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

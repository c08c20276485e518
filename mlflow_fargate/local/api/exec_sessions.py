"""Sessions of ECS Exec: what ExecuteCommand returns, and where the local plugin fetches the rest.

AWS returns the address of a stream and a token, with which AWS's session-manager-plugin connects to the agent in the
task. The local stack also returns an address and a token, for its own session-manager-plugin. A task is a process on
this machine, so the plugin does not send terminal input and output over the network: it fetches once what to run in
the task, and runs it in the terminal where it was started.

The token is in the plugin's arguments, as on AWS, where every user of this machine can read it. It is therefore not
sufficient: the plugin signs it with the stack's secret key, which it reads from the stack's state file.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_fargate.local.api.protocol import Response
from mlflow_fargate.local.container.launch import ExecSpec
from mlflow_fargate.local.signature import Keys

PLUGIN = Path(__file__).parents[1] / "session_manager_plugin.py"
_PATH = "/execute-command-sessions/"
_MOST_OPEN = 100  # sessions not fetched yet; the oldest is dropped


class ExecSessions:
    """Sessions that were opened and not used yet, for clients that have `keys`."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._open: dict[str, tuple[str, ExecSpec]] = {}

    def open(self, spec: ExecSpec, host: str) -> dict[str, str]:
        """Returns the `session` of ExecuteCommand's response; `host` is the host that the client connected to."""
        while len(self._open) >= _MOST_OPEN:
            self._open.pop(next(iter(self._open)), None)
        identity, token = f"ecs-execute-command-{secrets.token_hex(8)}", secrets.token_urlsafe(32)
        self._open[identity] = (token, spec)
        return {"sessionId": identity, "streamUrl": f"http://{host}{_PATH}{identity}", "tokenValue": token}

    def follow(self, environ: Mapping[str, Any]) -> Response | None:
        """Returns, once, what to run in the task, if the token is signed; None if the path is not a session's."""
        path = str(environ.get("PATH_INFO", ""))
        if not path.startswith(_PATH):
            return None
        identity = path.removeprefix(_PATH)
        token, spec = self._open.get(identity, ("", None))
        shown = str(environ.get("HTTP_AUTHORIZATION", "")).removeprefix("Bearer ")
        wanted = hmac.new(self._keys.secret_access_key.encode(), token.encode(), "sha256").hexdigest()
        if spec is None or not hmac.compare_digest(wanted.encode(), shown.encode()):
            said = b"Session not found, or already used; open a new one: mlflow-fargate exec\n"
            return Response(403, {"Content-Type": "text/plain"}, said)
        del self._open[identity]
        body = {
            "command": spec.command,
            "environment": dict(spec.environment),
            "working_directory": str(spec.working_directory),
            "task_pid": spec.task_pid,
        }
        return Response(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

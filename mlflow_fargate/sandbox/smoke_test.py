"""Starts a service on this machine the way a task would, and waits for it to respond, before anything is deployed.

At startup, the service predicts the model's input example (service_template does this), so a service that reports
ready has loaded its model and predicted once. Then the routes of a custom service are called with the examples that
its OpenAPI document has for their inputs. What the service sends is as hostile as the model's code.
"""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import requests
import urllib3

from mlflow_fargate.errors import SmokeTestFailed
from mlflow_fargate.resolved_model import printable
from mlflow_fargate.sandbox.process import last_lines, opened_sandbox
from mlflow_fargate.stop_reasons import explaining_lines, hint_for_stop

TIMEOUT_SECONDS = 300.0
_SHOWN_LINES = 15  # of a service that names no cause
_SAME_FAILURE = "a task on Fargate would fail the same way; smoke_test=false skips this test"
_KILLED = (
    "the service was killed, usually because this machine ran out of memory; free some memory, or skip the test: "
    "smoke_test=false"
)


_LONGEST_BYTES, _PIECE_BYTES = 4 << 20, 1 << 16


class Outcome(NamedTuple):
    """The seconds until the service was ready, and the routes that then answered their examples."""

    seconds: float
    answered: tuple[str, ...]


def run_smoke_test(
    entry_point: Sequence[str],
    *,
    working_directory: Path,
    environment: Mapping[str, str],
    interpreter: str,
    log: Path,
    timeout_seconds: float = TIMEOUT_SECONDS,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Returns when the service was ready; raises SmokeTestFailed, with the cause, if it never was or a route failed.

    All its processes have ended when this returns; `log` has their output.
    """
    port = _free_port()
    with opened_sandbox(interpreter, log) as sandbox:
        variables = {
            **environment,
            "BENTOML_HOME": str(sandbox.folder / "bentoml"),
            "BENTOML_HOST": "127.0.0.1",
            "BENTOML_PORT": str(port),
        }
        with sandbox.running(entry_point[1:], working_directory=working_directory, environment=variables) as process:
            began = clock()
            while _request(port, "GET", "/readyz")[0] != 200:
                if process.poll() is not None:
                    # bubblewrap, like a shell, returns 128 and the signal that ended the service.
                    code = 128 - process.returncode if process.returncode > 128 else process.returncode
                    raise _failure(f"exited with code {code}", log, code)
                if clock() - began > timeout_seconds:
                    raise _failure(f"was not ready within {timeout_seconds:.0f} s", log, None)
                sleep(0.2)
            seconds = clock() - began
            return Outcome(seconds, tuple(_call_routes(port, log, timeout_seconds)))


def _failure(what: str, log: Path, exit_code: int | None) -> SmokeTestFailed:
    lines = last_lines(log)
    shown = "".join(f"\n    | {line}" for line in explaining_lines(lines, _SHOWN_LINES))
    return SmokeTestFailed(
        f"Smoke test failed, so nothing was deployed: the service {what}.{shown}\n  Full log: {log}",
        hint=hint_for_stop("", exit_code, lines) or (_KILLED if exit_code == -signal.SIGKILL else _SAME_FAILURE),
    )


def _call_routes(port: int, log: Path, timeout_seconds: float) -> Iterator[str]:
    """Yields each route that answered its example; raises SmokeTestFailed for one that did not."""
    ends = time.monotonic() + timeout_seconds  # for all of them together
    for path, example in _examples(_request(port, "GET", "/docs.json")[1]):
        if (left := ends - time.monotonic()) < 0:
            return
        status, content = _request(port, "POST", path, example, left)
        if status is None or status >= 400:
            said = printable(content.decode("utf-8", "replace"), 300)
            raise _failure(
                f"answered its own example for {printable(path)} with {status or 'nothing'}: {said}", log, None
            )
        yield printable(path)


def _examples(openapi: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Returns the routes with an example for each required input, and a request made of these; pydantic writes them."""
    try:
        routes = json.loads(openapi)["paths"].items()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []  # no document, as of a service without routes
    found = []
    for path, methods in routes:
        with suppress(ValueError, LookupError, TypeError, AttributeError):  # a form that pydantic does not write
            schema = methods["post"]["requestBody"]["content"]["application/json"]["schema"]
            fields = schema.get("properties", {}).items()
            example = {name: field["examples"][0] for name, field in fields if field.get("examples")}
            json.dumps(example, allow_nan=False)
            if example and {*schema.get("required", ())} <= example.keys() and path.startswith("/"):
                found.append((path, example))
    return found


def _request(
    port: int, method: str, path: str, body: object = None, timeout_seconds: float = 5
) -> tuple[int | None, bytes]:
    """Returns the response's status and content; (None, the reason) if there is none."""
    session = requests.Session()
    session.trust_env = False  # loopback requests must not go through a proxy
    url, timeouts = f"http://127.0.0.1:{port}{path}", (5, timeout_seconds)
    try:
        with session.request(method, url, json=body, timeout=timeouts, stream=True, allow_redirects=False) as response:
            return response.status_code, _read(response, time.monotonic() + timeout_seconds)
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
        return None, str(error).encode()


def _read(response: requests.Response, ends: float) -> bytes:
    """Returns the content that arrives until then; of events, which may never end, the first ones."""
    content = b""
    while len(content) < _LONGEST_BYTES and time.monotonic() < ends:
        piece = response.raw.read1(_PIECE_BYTES, decode_content=True)
        content += piece
        if not piece or response.headers.get("Content-Type", "").startswith("text/event-stream"):
            break
    return content


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

"""Requests to MLflow's tracking server: whether it responds, and its artifacts. Redirects are not followed.

redirects.py explains why.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import mlflow
import requests
import stamina
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service.utils import get_default_host_creds
from mlflow.utils.rest_utils import augmented_raise_for_status, http_request

from mlflow_fargate.doctor_facts import ServerAnswer
from mlflow_fargate.errors import UntrustedSource
from mlflow_fargate.model.sources import ARTIFACT_SERVICE
from mlflow_fargate.resolved_model import without_credentials

Note = Callable[[str], None]

_TIMEOUT_SECONDS = 10
_ATTEMPTS = 5
_RETRIED_STATUSES = {408, 429, 500, 502, 503, 504}  # as in MLflow
REGISTRY = "/api/2.0/mlflow/registered-models/search"
WEBHOOKS = "/api/2.0/mlflow/webhooks"


class _Busy(MlflowException):  # type: ignore[misc]  # mlflow ships no types
    """The server did not serve a request this time; a retry may succeed."""


def ask_server(path: str) -> ServerAnswer | None:
    """Calls the configured tracking server with MLflow's credentials; returns None if it is not a server."""
    uri = mlflow.get_tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return None
    shown = without_credentials(uri)
    try:
        answer = http_request(
            get_default_host_creds(uri), path, "GET",
            max_retries=0, timeout=_TIMEOUT_SECONDS, raise_on_status=False, params={"max_results": 1},
            allow_redirects=False,
        )  # fmt: skip
    except Exception as error:  # MLflow wraps every error of its HTTP library
        return ServerAnswer(shown, None, without_credentials(str(error)).splitlines()[0][:200])
    return ServerAnswer(shown, answer.status_code, answer.text[:1000])


def check_reachable(server_uri: str) -> None:
    """Raises MlflowException if the server at an http(s) URI does not respond, UntrustedSource if it redirects.

    MLflow retries a refused connection for four minutes. Every server has /health, so one short request is enough.
    """
    creds = get_default_host_creds(server_uri)
    answer = http_request(
        creds, "/health", "GET", max_retries=1, timeout=_TIMEOUT_SECONDS, raise_on_status=False, allow_redirects=False
    )
    _refuse_redirect(answer, server_uri)


def list_artifacts(tracking_uri: str, path: str, note: Note) -> Any:
    """Returns the JSON list of artifacts in the folder `path`; raises MlflowException or RequestException."""
    answer = _get(tracking_uri, ARTIFACT_SERVICE, note, params={"path": path})
    augmented_raise_for_status(answer)
    return answer.json()


def open_artifact(tracking_uri: str, path: str, note: Note) -> requests.Response:
    """Returns the artifact `path` as an open response, to be closed; raises MlflowException or RequestException."""
    answer = _get(tracking_uri, f"{ARTIFACT_SERVICE}/{quote(path)}", note, stream=True)
    try:
        answer.raise_for_status()
    except requests.HTTPError:
        answer.close()
        raise
    return answer


def _get(tracking_uri: str, endpoint: str, note: Note, **options: Any) -> requests.Response:
    """Returns the response; notes each retry, because MLflow itself would retry silently for four minutes."""
    for attempt in stamina.retry_context(on=_Busy, attempts=_ATTEMPTS, wait_initial=1, wait_max=10):
        with attempt:
            try:
                return _get_once(tracking_uri, endpoint, **options)
            except _Busy as error:
                if attempt.num < _ATTEMPTS:
                    server = without_credentials(tracking_uri)
                    note(f"{server}: {without_credentials(str(error))[:100]}; retry {attempt.num} of {_ATTEMPTS - 1}")
                raise
    raise AssertionError("stamina ends with a result or an exception")


def _get_once(tracking_uri: str, endpoint: str, **options: Any) -> requests.Response:
    try:
        answer: requests.Response = http_request(
            get_default_host_creds(tracking_uri), endpoint, "GET",
            max_retries=0, raise_on_status=False, allow_redirects=False, **options,
        )  # fmt: skip
    except MlflowException as error:
        if "failed with exception" in str(error):
            raise _Busy(str(error)) from error
        raise
    _refuse_redirect(answer, tracking_uri)
    if answer.status_code not in _RETRIED_STATUSES:
        return answer
    with answer:
        raise _Busy(f"{answer.status_code} {answer.reason} {' '.join(answer.text.split())[:200]}".strip())


def _refuse_redirect(answer: requests.Response, server_uri: str) -> None:
    if "Location" not in answer.headers or not 300 <= answer.status_code < 400:
        return
    answer.close()
    target = without_credentials(urljoin(answer.url, answer.headers["Location"]))[:300]
    raise UntrustedSource(
        f"The MLflow server at {without_credentials(server_uri)} redirects to {target!r}; redirects are not followed.",
        hint="set MLFLOW_TRACKING_URI to the server's final address",
    )


def hint_for(error: MlflowException, server: str) -> str | None:
    """Returns what to do about an error that MLflow reported for `server`; None: unknown."""
    said = str(error.message)
    if "Invalid Host header" in said:
        return (
            "the server does not accept this host name; start it with: "
            f"mlflow server --allowed-hosts {urlsplit(server).netloc}"
        )
    status = error.get_http_status_code()
    return next((hint for pattern, hint in _HINTS if re.search(pattern, f"{said} HTTP {status}")), None)


_HINTS = (
    (
        r"failed with error code 30[12378]\b",
        "the server redirects, and redirects are not followed; set MLFLOW_TRACKING_URI to its final address",
    ),
    (
        "got unsupported URI",
        "a server's address starts with http:// or https://, for example MLFLOW_TRACKING_URI=http://localhost:5000",
    ),
    ("HTTP 401$", "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"),
    ("HTTP 403$", "your MLflow user lacks the READ permission for this"),
    ("HTTP 404$", "check the URI; if it is on another server, set MLFLOW_TRACKING_URI"),
    (
        "failed with exception|timeout",
        "check that the tracking server is running and reachable from here; MLFLOW_TRACKING_URI sets its address",
    ),
)

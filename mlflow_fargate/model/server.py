"""Requests to MLflow's tracking server: whether it answers as needed, and its artifacts. Redirects are not followed.

redirects.py says why.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urljoin

import mlflow
import requests
from mlflow.tracking._tracking_service.utils import get_default_host_creds
from mlflow.utils.rest_utils import augmented_raise_for_status, http_request

from mlflow_fargate.doctor_facts import ServerAnswer
from mlflow_fargate.errors import UntrustedSource
from mlflow_fargate.model.sources import ARTIFACT_SERVICE
from mlflow_fargate.resolved_model import without_credentials

_TIMEOUT_SECONDS = 10
REGISTRY = "/api/2.0/mlflow/registered-models/search"
WEBHOOKS = "/api/2.0/mlflow/webhooks"


def ask_server(path: str) -> ServerAnswer | None:
    """The answer of the server that MLflow is set to use, with MLflow's own credentials; None: it is no server."""
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
    except Exception as error:  # MLflow wraps whatever its HTTP library raises
        return ServerAnswer(shown, None, without_credentials(str(error)).splitlines()[0][:200])
    return ServerAnswer(shown, answer.status_code, answer.text[:1000])


def check_reachable(server_uri: str) -> None:
    """MlflowException unless the server at an http(s) URI answers; UntrustedSource when it sends its callers elsewhere.

    MLflow retries a refused connection for four minutes. /health is open on every server, so one short try is enough.
    """
    creds = get_default_host_creds(server_uri)
    answer = http_request(
        creds, "/health", "GET", max_retries=1, timeout=_TIMEOUT_SECONDS, raise_on_status=False, allow_redirects=False
    )
    _refuse_redirect(answer, server_uri)


def list_artifacts(tracking_uri: str, path: str) -> Any:
    """The tracking server's JSON on the artifacts in the folder `path`; MlflowException or RequestException if not."""
    answer = _get(tracking_uri, ARTIFACT_SERVICE, params={"path": path})
    augmented_raise_for_status(answer)
    return answer.json()


def open_artifact(tracking_uri: str, path: str) -> requests.Response:
    """The artifact `path`, its body not read yet; close it. MlflowException or RequestException if it is not there."""
    answer = _get(tracking_uri, f"{ARTIFACT_SERVICE}/{quote(path)}", stream=True)
    try:
        answer.raise_for_status()
    except requests.HTTPError:
        answer.close()
        raise
    return answer


def _get(tracking_uri: str, endpoint: str, **options: Any) -> requests.Response:
    answer: requests.Response = http_request(
        get_default_host_creds(tracking_uri), endpoint, "GET", allow_redirects=False, **options
    )
    _refuse_redirect(answer, tracking_uri)
    return answer


def _refuse_redirect(answer: requests.Response, server_uri: str) -> None:
    if "Location" not in answer.headers or not 300 <= answer.status_code < 400:
        return
    answer.close()
    target = without_credentials(urljoin(answer.url, answer.headers["Location"]))[:300]
    raise UntrustedSource(
        f"The MLflow server at {without_credentials(server_uri)} redirects to {target!r}, and no redirect is followed.",
        hint="set MLFLOW_TRACKING_URI to the address at which the server itself answers",
    )

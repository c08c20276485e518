"""Whether MLflow's tracking server answers as we need it."""

from __future__ import annotations

import mlflow
from mlflow.tracking._tracking_service.utils import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from mlflow_fargate.doctor_facts import ServerAnswer
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
        )  # fmt: skip
    except Exception as error:  # MLflow wraps whatever its HTTP library raises
        return ServerAnswer(shown, None, without_credentials(str(error)).splitlines()[0][:200])
    return ServerAnswer(shown, answer.status_code, answer.text[:1000])

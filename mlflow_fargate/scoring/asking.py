"""The requests to a deployed model: where to, how long, how often.

Tables, arrays and dicts go to /invocations as JSON, an image file or its bytes to /predict_image; to a service of the
user's own goes what the API that takes it is called.
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import stamina
from requests.auth import AuthBase

from mlflow_fargate.errors import InvalidOption, PredictionFailed, PredictionTimeout, RolloutTimeout
from mlflow_fargate.scoring.custom_routes import MLFLOW_ROUTE, CustomRoute, choose_route, custom_routes
from mlflow_fargate.scoring.documents import make_document
from mlflow_fargate.scoring.json_stream import JsonStream

# What a load balancer says while targets come and go.
_TRANSIENT = frozenset({502, 503, 504})
_ATTEMPTS = 4
_POLL_SECONDS = 2.0
_CONNECT_SECONDS = 10.0
_SHOWN_CHARACTERS = 500
_JSON = {"Content-Type": "application/json"}
_TOO_LARGE = "send fewer rows or a smaller image, or raise environment.MAX_BODY_MB"
_NO_CERTIFICATE = (
    "a load balancer's own name has no certificate: give the deployment the domain of yours with "
    "mlflow deployments update … -C host=, and let its DNS record name the load balancer"
)
_HINTS = {
    401: "the deployment has another API key than the one sent",
    404: "this deployment has no such route; only image classifiers answer /predict_image",
    413: _TOO_LARGE,
}
_IMAGE = bytes | bytearray | str | Path


class _ApiKey(AuthBase):
    """Sets the key. A plain header would lose against a .netrc entry for the same host."""

    def __init__(self, api_key: str | None) -> None:
        self._api_key = api_key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._api_key is not None:
            request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request


class _PassingFailure(PredictionFailed):
    """One that may be gone when the same is asked again."""


def wait_until_ready(
    url: str,
    *,
    timeout_seconds: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    """Returns when the model at `url` says it is ready; RolloutTimeout tells what it said last instead.

    No certificate is asked for: a load balancer's own name has none, and nothing secret is sent.
    """
    deadline = clock() + timeout_seconds
    while True:
        said = _ask_ready(f"{url.rstrip('/')}/readyz")
        if said is None:
            return
        if clock() + _POLL_SECONDS > deadline:
            raise RolloutTimeout(f"{url} was not ready within {timeout_seconds:g} s; the last answer was: {said}")
        sleep(_POLL_SECONDS)


def score(
    url: str,
    inputs: Any,
    *,
    api_key: str | None = None,
    timeout_seconds: float = 120,
    is_custom_service: bool = False,
) -> Any:
    """The parsed JSON with which the model at `url` answers `inputs`; PredictionFailed when it does not.

    `inputs`: a DataFrame or Series, an array, a list (of dicts: rows), a dict (MLflow's keys as they are, others as
    named tensors), or an image as bytes or as the path of its file. A service of the user's own takes a dict by the
    names of its inputs; an answer that is not JSON is then its text, or the base64 of its bytes.

    The answer may take `timeout_seconds` to begin, else PredictionTimeout. Connections that break and 502, 503 and
    504 are asked again, as long as that time lasts, where a prediction is all that is asked: it changes nothing. What
    a custom service does is its own affair, so that is asked once.
    """
    asking = _Asking(url.rstrip("/"), _ApiKey(api_key), timeout_seconds)
    if is_custom_service and (routes := asking.custom_routes()) is not None:
        route, request = choose_route(routes, inputs)
        return _parsed(asking.send("POST", route.path, **_own_request(route, request)), accepts_all=True)
    if isinstance(inputs, _IMAGE):
        files = {"image": ("image", _read_image(inputs))}
        return _parsed(asking.send_until_available("POST", "/predict_image", files=files))
    body = JsonStream(make_document(inputs)).body()
    return _parsed(asking.send_until_available("POST", MLFLOW_ROUTE, data=body, headers=_JSON))


@dataclass(frozen=True)
class _Asking:
    """Requests to one deployment."""

    url: str
    auth: AuthBase
    timeout_seconds: float

    def custom_routes(self) -> tuple[CustomRoute, ...] | None:
        """The service's APIs; None where MLflow's protocol is one of them."""
        openapi = _parsed(self.send_until_available("GET", "/docs.json"))
        return None if MLFLOW_ROUTE in openapi.get("paths", {}) else tuple(custom_routes(openapi))

    def send_until_available(self, method: str, path: str, **request: Any) -> requests.Response:
        """The answer to a request that may be made twice; see `send`."""
        retries = stamina.retry_context(
            on=_PassingFailure, attempts=_ATTEMPTS, timeout=self.timeout_seconds, wait_initial=0.5
        )
        for attempt in retries:
            with attempt:
                response = self.send(method, path, **request)
        return response

    def send(self, method: str, path: str, **request: Any) -> requests.Response:
        """The answer, if its status is good; PredictionFailed tells what was said instead."""
        url = f"{self.url}{path}"
        timeouts = (min(_CONNECT_SECONDS, self.timeout_seconds), self.timeout_seconds)
        try:
            response = requests.request(method, url, auth=self.auth, timeout=timeouts, **request)
        except requests.ReadTimeout as error:
            raise PredictionTimeout(
                f"{url} did not answer within {self.timeout_seconds:g} s.",
                hint="predict(…, timeout_seconds=…), or set MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT",
            ) from error
        except requests.exceptions.SSLError as error:
            raise PredictionFailed(f"{url} is not trusted: {error}", hint=_NO_CERTIFICATE) from error
        except requests.RequestException as error:
            # A service that does not want so much closes the connection, and its 413 is lost.
            hint = _TOO_LARGE if isinstance(request.get("data"), JsonStream) else None
            raise _PassingFailure(f"{url} did not answer: {error}", hint=hint) from error
        if response.ok:
            return response
        status, said = response.status_code, response.text[:_SHOWN_CHARACTERS]
        kind = _PassingFailure if status in _TRANSIENT else PredictionFailed
        raise kind(f"{url} answered {status}: {said}", hint=_HINTS.get(status))


def _own_request(route: CustomRoute, request: dict[str, Any]) -> dict[str, Any]:
    if not route.files:
        return {"data": JsonStream(request).body(), "headers": _JSON}
    files = {name: (name, _read_image(value)) for name, value in request.items() if name in route.files}
    return {"files": files, "data": {name: value for name, value in request.items() if name not in files}}


def _read_image(image: Any) -> bytes:
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    if not isinstance(image, str | Path):
        raise InvalidOption(f"A {type(image).__name__} is no file; pass its bytes or its path.")
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise InvalidOption(
            f"The image file '{image}' cannot be read ({error.strerror}).",
            hint="other inputs than images are DataFrames, arrays, lists and dicts",
        ) from error


def _parsed(response: requests.Response, *, accepts_all: bool = False) -> Any:
    try:
        return response.json()
    except ValueError as error:
        if accepts_all:
            is_text = response.headers.get("Content-Type", "").startswith("text/")
            return response.text if is_text else base64.b64encode(response.content).decode("ascii")
        said = response.text[:_SHOWN_CHARACTERS]
        raise PredictionFailed(f"{response.url} answered with something else than JSON: {said}") from error


def _ask_ready(url: str) -> str | None:
    """None when ready; else what was said."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Unverified HTTPS request")
            response = requests.get(url, timeout=10, verify=False)  # noqa: S501  # see wait_until_ready
    except requests.RequestException as error:
        return str(error)
    if response.status_code == 200:
        return None
    return f"{response.status_code} {response.text[:_SHOWN_CHARACTERS]}".strip()

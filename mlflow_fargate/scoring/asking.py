"""The requests to a deployed model: URL, timeouts, retries.

Tables, arrays and dicts go to /invocations as JSON, an image file or its bytes to /predict_image; for a custom service,
inputs go to the API that accepts them.
"""

from __future__ import annotations

import base64
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import stamina
from requests.auth import AuthBase

from mlflow_fargate.errors import InvalidOption, PredictionFailed, PredictionTimeout, RolloutTimeout
from mlflow_fargate.scoring.custom_routes import MLFLOW_ROUTE, CustomRoute, choose_route, custom_routes
from mlflow_fargate.scoring.documents import make_document
from mlflow_fargate.scoring.events import parse_events
from mlflow_fargate.scoring.json_stream import JsonStream

# What a load balancer returns while targets are registered and deregistered.
_TRANSIENT = frozenset({502, 503, 504})
_ATTEMPTS = 4
_POLL_SECONDS = 2.0
_CONNECT_SECONDS = 10.0
# A load balancer gives up connecting to a task after ten seconds. What fails later may have been computed for a while,
# and would be computed again.
_LATE_SECONDS = 12.0
_SHOWN_CHARACTERS = 500
_JSON = {"Content-Type": "application/json"}
_TOO_LARGE = "send fewer rows or a smaller image, or raise memory or environment.MAX_BODY_MB"
_NO_CERTIFICATE = (
    "a load balancer's default name has no certificate: set your own domain with mlflow deployments update … -C host=, "
    "and create a DNS record from it to the load balancer"
)
_ELSEWHERE = "inputs and the API key are sent only to the deployment's own URL; check what is running there"
_HINTS = {
    401: "this is not the deployment's API key",
    404: "this deployment does not have that route; only image classifiers have /predict_image",
    406: "the model does not stream: log it with a method predict_stream, or use predict()",
    413: _TOO_LARGE,
    504: "if predictions take that long: raise environment.REQUEST_TIMEOUT_SECONDS, or send fewer rows",
}
NO_HEADERS: Mapping[str, str] = {}
_IMAGE = bytes | bytearray | str | Path


class _ApiKey(AuthBase):
    """Sets the key and further headers. A .netrc entry for the same host would override a plain header."""

    def __init__(self, api_key: str | None, headers: Mapping[str, str]) -> None:
        self._api_key = api_key
        self._headers = headers

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self._headers)
        if self._api_key is not None:
            request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request


class _PassingFailure(PredictionFailed):
    """A failure that may go away on a retry."""


def make_http() -> requests.Session:
    """Returns a session whose connections threads can share; it keeps no cookies."""
    http = requests.Session()
    http.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return http


def wait_until_ready(
    url: str,
    headers: Mapping[str, str] = NO_HEADERS,
    *,
    timeout_seconds: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    """Returns when the model at `url` reports ready; raises RolloutTimeout with its last response otherwise.

    The certificate is not verified: a load balancer's default name has none, and no secret is sent.
    """
    deadline = clock() + timeout_seconds
    while True:
        said = _ask_ready(url, headers)
        if said is None:
            return
        if clock() + _POLL_SECONDS > deadline:
            raise RolloutTimeout(f"{url} was not ready within {timeout_seconds:g} s; last response: {said}")
        sleep(_POLL_SECONDS)


def is_ready(url: str, headers: Mapping[str, str] = NO_HEADERS) -> bool:
    """Returns whether the model at `url` reports ready now."""
    return _ask_ready(url, headers) is None


def score(
    url: str,
    inputs: Any,
    *,
    api_key: str | None = None,
    headers: Mapping[str, str] = NO_HEADERS,
    timeout_seconds: float = 120,
    is_custom_service: bool = False,
    http: requests.Session | None = None,
) -> Any:
    """Returns the parsed JSON response of the model at `url` to `inputs`; raises PredictionFailed on failure.

    `inputs`: a DataFrame or Series, an array, a list (of dicts: rows), a dict (MLflow's keys are kept, others become
    named tensors), or an image as bytes or as a file path. A custom service takes a dict keyed by its input names; its
    response, if not JSON, is returned as text, or as base64. `headers` are sent too: they choose a variant.

    The response must start within `timeout_seconds`, or PredictionTimeout is raised. Within that time, broken
    connections and 502, 503 and 504 are retried, because a prediction changes nothing; but not if they come after more
    than a few seconds, because the prediction may have been computed already. Calls to a custom service are
    not retried, because they may have side effects. Redirects are not followed: another server must not get the inputs
    or the key.
    """
    asking = _Asking(url.rstrip("/"), _ApiKey(api_key, headers), timeout_seconds, http or make_http())
    if is_custom_service and (routes := asking.custom_routes()) is not None:
        route, request = choose_route(routes, inputs)
        return _parsed(asking.send("POST", route.path, **_own_request(route, request)), accepts_all=True)
    if isinstance(inputs, _IMAGE):
        files = {"image": ("image", _read_image(inputs))}
        return _parsed(asking.send_until_available("POST", "/predict_image", files=files))
    body = JsonStream(make_document(inputs)).body()
    return _parsed(asking.send_until_available("POST", MLFLOW_ROUTE, data=body, headers=_JSON))


def score_stream(
    url: str,
    inputs: Any,
    *,
    api_key: str | None = None,
    headers: Mapping[str, str] = NO_HEADERS,
    timeout_seconds: float = 120,
) -> Iterator[Any]:
    """Yields the chunks that the model at `url` streams for `inputs`, as they arrive; see `score`.

    Each chunk must arrive within `timeout_seconds`. Nothing is retried once the response has begun. A stream that ends
    early raises PredictionFailed after the chunks that arrived. Closing the iterator ends the model's work.
    """
    asking = _Asking(url.rstrip("/"), _ApiKey(api_key, headers), timeout_seconds, make_http())
    document = make_document(inputs)
    body = JsonStream({**document, "stream": True}).body()
    accepted = {**_JSON, "Accept": "text/event-stream"}
    with asking.send_until_available("POST", MLFLOW_ROUTE, data=body, headers=accepted, stream=True) as response:
        if "text/event-stream" not in response.headers.get("Content-Type", ""):
            raise PredictionFailed(f"{response.url} did not return a stream of events.", hint=_HINTS[406])
        try:
            # Without chunks, reading more than a byte at a time waits for the next event.
            size = 512 if response.headers.get("Transfer-Encoding", "").lower() == "chunked" else 1
            yield from parse_events(response.iter_lines(size), response.url)
        except requests.RequestException as error:
            raise PredictionFailed(f"{response.url}: the stream was interrupted: {error}") from error


@dataclass(frozen=True)
class _Asking:
    """Requests to one deployment."""

    url: str
    auth: AuthBase
    timeout_seconds: float
    http: requests.Session

    def custom_routes(self) -> tuple[CustomRoute, ...] | None:
        """Returns the service's APIs, or None if MLflow's protocol is one of them."""
        openapi = _parsed(self.send_until_available("GET", "/docs.json"))
        return None if MLFLOW_ROUTE in openapi.get("paths", {}) else tuple(custom_routes(openapi))

    def send_until_available(self, method: str, path: str, **request: Any) -> requests.Response:
        """Like `send`, with retries, for requests that are safe to repeat."""
        retries = stamina.retry_context(
            on=lambda error: isinstance(error, _PassingFailure) and not error.is_late,
            attempts=_ATTEMPTS,
            timeout=self.timeout_seconds,
            wait_initial=0.5,
        )
        for attempt in retries:
            with attempt:
                response = self.send(method, path, **request)
        return response

    def send(self, method: str, path: str, **request: Any) -> requests.Response:
        """Returns a successful response; raises PredictionFailed with the service's response otherwise."""
        url = f"{self.url}{path}"
        began = time.monotonic()
        timeouts = (min(_CONNECT_SECONDS, self.timeout_seconds), self.timeout_seconds)
        try:
            response = self.http.request(
                method, url, auth=self.auth, timeout=timeouts, allow_redirects=False, **request
            )
        except requests.ReadTimeout as error:
            raise PredictionTimeout(
                f"{url} did not respond within {self.timeout_seconds:g} s.",
                hint="wait longer with predict(…, timeout_seconds=…) or MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT",
                is_late=True,
            ) from error
        except requests.exceptions.SSLError as error:
            raise PredictionFailed(f"{url} has no trusted certificate: {error}", hint=_NO_CERTIFICATE) from error
        except (requests.RequestException, ValueError) as error:  # the latter: a redirect to no URL
            # A service that rejects a large body closes the connection, and its 413 is lost.
            hint = _TOO_LARGE if isinstance(request.get("data"), JsonStream) else None
            raise _PassingFailure(f"{url} did not respond: {error}", hint=hint, is_late=_is_late(began)) from error
        if response.is_redirect:
            raise PredictionFailed(
                f"{url} redirects to {_target_of(response)!r}, which was not followed.", hint=_ELSEWHERE
            )
        if response.ok:
            return response
        status, said = response.status_code, response.text[:_SHOWN_CHARACTERS]
        kind = _PassingFailure if status in _TRANSIENT else PredictionFailed
        text, is_late = f"{url} returned {status}: {said}", _is_late(began)
        raise kind(text, hint=_HINTS.get(status), status=status, is_late=is_late)


def _is_late(began: float) -> bool:
    return time.monotonic() - began > _LATE_SECONDS


def _own_request(route: CustomRoute, request: dict[str, Any]) -> dict[str, Any]:
    if not route.files:
        return {"data": JsonStream(request).body(), "headers": _JSON}
    files = {name: (name, _read_image(value)) for name, value in request.items() if name in route.files}
    return {"files": files, "data": {name: value for name, value in request.items() if name not in files}}


def _read_image(image: Any) -> bytes:
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    if not isinstance(image, str | Path):
        raise InvalidOption(f"Cannot read an image from {type(image).__name__}; pass bytes or a path.")
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise InvalidOption(
            f"Cannot read the image file '{image}': {error.strerror}.",
            hint="a string is read as an image path; pass other inputs as a DataFrame, array, list or dict",
        ) from error


def _parsed(response: requests.Response, *, accepts_all: bool = False) -> Any:
    try:
        return response.json()
    except ValueError as error:
        if accepts_all:
            is_text = response.headers.get("Content-Type", "").startswith("text/")
            return response.text if is_text else base64.b64encode(response.content).decode("ascii")
        said = response.text[:_SHOWN_CHARACTERS]
        raise PredictionFailed(f"{response.url} did not return JSON: {said}") from error


def _target_of(response: requests.Response) -> str:
    """Returns where the response redirects to, without credentials and a query, which can be secrets."""
    parts = urlsplit(urljoin(response.url, response.headers["Location"]))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:_SHOWN_CHARACTERS]


def _ask_ready(url: str, headers: Mapping[str, str]) -> str | None:
    """Returns None if ready, else the response."""
    ready = f"{url.rstrip('/')}/readyz"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Unverified HTTPS request")
            response = requests.get(ready, headers=headers, timeout=10, verify=False, allow_redirects=False)  # noqa: S501  # see wait_until_ready
    except (requests.RequestException, ValueError) as error:  # the latter: a redirect to no URL
        return str(error)
    if response.status_code == 200:
        return None
    if response.is_redirect:
        return f"{response.status_code} (redirects to {_target_of(response)})"
    return f"{response.status_code} {response.text[:_SHOWN_CHARACTERS]}".strip()

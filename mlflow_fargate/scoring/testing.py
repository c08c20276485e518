"""Tests a deployment's new tasks before they get traffic, with headers that the load balancer routes to them.

The request is the model's own input example, from the service's OpenAPI document, so the model itself is not needed
where this runs. A service without one (a custom service, or an image classifier) only has to report ready.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import requests
import stamina

from mlflow_fargate.errors import PredictionFailed

_ROUTE = "/invocations"
# A rule's new weights take seconds to reach every node of the load balancer.
_PATIENCE_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 120.0
_SHOWN_CHARACTERS = 300
# A malicious or broken service must not fill this machine's memory.
_LONGEST_BYTES = 16 * 1024 * 1024


class _Early(PredictionFailed):
    """A failure that may come from the load balancer, so it is retried for a while."""


def test_service(
    url: str,
    headers: Mapping[str, str],
    *,
    api_key: str | None,
    version: str | None,
    patience_seconds: float = _PATIENCE_SECONDS,
) -> str:
    """Returns the service's response in words; raises PredictionFailed, with the response, if the test fails.

    `version` is the model version that responses name; a response from another one proves nothing. None: unknown.
    Over HTTPS only readiness is checked: no certificate covers a load balancer's default name, so no key is sent to it.
    """
    if url.startswith("https://"):
        ready = _asker(url.rstrip("/"), headers, version, verify=False)
        _ask_patiently(lambda: ready("GET", "/readyz"), patience_seconds)
        return "they are ready (no prediction was tested: an API key is not sent to a load balancer's default name)"
    ask = _asker(url.rstrip("/"), {**headers, **({"Authorization": f"Bearer {api_key}"} if api_key else {})}, version)
    _ask_patiently(lambda: ask("GET", "/readyz"), patience_seconds)
    example = _example(_ask_patiently(lambda: ask("GET", "/docs.json"), patience_seconds))
    if example is None:
        return "they are ready (there is no input example to send)"
    answer = _ask_patiently(lambda: ask("POST", _ROUTE, json=example), patience_seconds)
    return f"the model's input example returned {_shown(answer)}"


test_service.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it as a test


def _asker(
    url: str, headers: Mapping[str, str], version: str | None, *, verify: bool = True
) -> Callable[..., requests.Response]:
    def ask(method: str, path: str, **request: Any) -> requests.Response:
        session = requests.Session()
        # A .netrc entry for the host would override the Authorization header.
        session.auth = lambda prepared: prepared
        timeouts = (_CONNECT_SECONDS, _ANSWER_SECONDS)
        # Set per request: on the session, the environment's CA bundle would override it.
        asked = {"verify": verify, "timeout": timeouts, "stream": True, "allow_redirects": False, **request}
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Unverified HTTPS request")
                response = session.request(method, f"{url}{path}", headers=headers, **asked)
            with response:
                response._content = response.raw.read(_LONGEST_BYTES, decode_content=True)
        except requests.RequestException as error:
            raise _Early(f"{url}{path} did not respond: {error}") from error
        _check(response, version, path)
        return response

    return ask


def _check(response: requests.Response, version: str | None, path: str) -> None:
    answered = response.headers.get("X-Model-Version")
    if version and answered and answered != version:
        raise _Early(
            f"{path} reached version {answered}, not {version}: the test rule does not route to the new tasks."
        )
    if response.status_code != 200:
        # Waiting for the load balancer helps with a missing target, but not with a failing model.
        kind = _Early if response.status_code in (404, 502, 503, 504) else PredictionFailed
        raise kind(f"{path} returned {response.status_code}: {_shown(response)}")


def _ask_patiently(ask: Callable[[], requests.Response], seconds: float) -> requests.Response:
    for attempt in stamina.retry_context(on=_Early, attempts=None, timeout=seconds, wait_initial=0.5, wait_max=3.0):
        with attempt:
            response = ask()
    return response


def _example(response: requests.Response) -> Any:
    """Returns the example request body from the service's OpenAPI document, or None if it has none."""
    try:
        content = response.json()["paths"][_ROUTE]["post"]["requestBody"]["content"]["application/json"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return content.get("example") if isinstance(content, dict) else None


def _shown(response: requests.Response) -> str:
    text = " ".join(response.text.split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"

"""A deployment's new tasks are asked, by way of headers that the load balancer leads to them, before callers are.

The question is the model's own input example, which the service tells in its OpenAPI document: nothing of the model has
to be at hand where this runs. A service without one (of the user's own, or for pictures) has to say that it is ready.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import requests
import stamina

from mlflow_fargate.errors import PredictionFailed

_ROUTE = "/invocations"
# The load balancer takes seconds until all of it knows a rule's new weights.
_PATIENCE_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 120.0
_SHOWN_CHARACTERS = 300
# A hostile or broken service must not fill this machine's memory.
_LONGEST_BYTES = 16 * 1024 * 1024


class _Early(PredictionFailed):
    """A failure that may be the load balancer's, which is asked again for a while."""


def test_service(
    url: str,
    headers: Mapping[str, str],
    *,
    api_key: str | None,
    version: str | None,
    patience_seconds: float = _PATIENCE_SECONDS,
) -> str:
    """What the service answered, in words; PredictionFailed, with the answer, when it does not serve as it should.

    `version`: of the model, which the answers name; another one's answer proves nothing. None: not known.
    By HTTPS only readiness is asked: no certificate stands for a load balancer's own name, so no key is sent there.
    """
    if url.startswith("https://"):
        ready = _asker(url.rstrip("/"), headers, version, verify=False)
        _ask_patiently(lambda: ready("GET", "/readyz"), patience_seconds)
        return "they are ready (over HTTPS, by the load balancer's own name, nothing is asked that needs a key)"
    ask = _asker(url.rstrip("/"), {**headers, **({"Authorization": f"Bearer {api_key}"} if api_key else {})}, version)
    _ask_patiently(lambda: ask("GET", "/readyz"), patience_seconds)
    example = _example(_ask_patiently(lambda: ask("GET", "/docs.json"), patience_seconds))
    if example is None:
        return "they are ready (there is no input example to ask)"
    answer = _ask_patiently(lambda: ask("POST", _ROUTE, json=example), patience_seconds)
    return f"the model's input example is answered by {_shown(answer)}"


test_service.__test__ = False  # type: ignore[attr-defined]  # pytest takes its name for a test's


def _asker(
    url: str, headers: Mapping[str, str], version: str | None, *, verify: bool = True
) -> Callable[..., requests.Response]:
    def ask(method: str, path: str, **request: Any) -> requests.Response:
        session = requests.Session()
        # A .netrc entry for the host would win over our Authorization header.
        session.auth = lambda prepared: prepared
        timeouts = (_CONNECT_SECONDS, _ANSWER_SECONDS)
        # With the call, not the session, for which the environment's CA bundle would speak.
        asked = {"verify": verify, "timeout": timeouts, "stream": True, "allow_redirects": False, **request}
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Unverified HTTPS request")
                response = session.request(method, f"{url}{path}", headers=headers, **asked)
            with response:
                response._content = response.raw.read(_LONGEST_BYTES, decode_content=True)
        except requests.RequestException as error:
            raise _Early(f"{url}{path} did not answer: {error}") from error
        _check(response, version, path)
        return response

    return ask


def _check(response: requests.Response, version: str | None, path: str) -> None:
    answered = response.headers.get("X-Model-Version")
    if version and answered and answered != version:
        raise _Early(f"{path} was answered by version {answered}, not by {version}: the test rule does not lead there.")
    if response.status_code != 200:
        # A model's own failure does not heal within the load balancer's seconds, a missing target does.
        kind = _Early if response.status_code in (404, 502, 503, 504) else PredictionFailed
        raise kind(f"{path} answered {response.status_code}: {_shown(response)}")


def _ask_patiently(ask: Callable[[], requests.Response], seconds: float) -> requests.Response:
    for attempt in stamina.retry_context(on=_Early, attempts=None, timeout=seconds, wait_initial=0.5, wait_max=3.0):
        with attempt:
            response = ask()
    return response


def _example(response: requests.Response) -> Any:
    """The body of a request that works, as the service's document has it; None where it names none."""
    try:
        content = response.json()["paths"][_ROUTE]["post"]["requestBody"]["content"]["application/json"]
    except (ValueError, KeyError, TypeError):
        return None
    return content.get("example") if isinstance(content, dict) else None


def _shown(response: requests.Response) -> str:
    text = " ".join(response.text.split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"

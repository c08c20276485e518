"""HTTP to one registry: sessions, authorization, redirects, retries, and error messages.

`client.py` knows the paths of the distribution API; this module handles what can go wrong with a request.

RegistryError
├── Refused      the registry refused the request; `status` is the HTTP status
└── Transient    can be retried: no connection, 429, 5xx
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests
import stamina
import urllib3
from requests.auth import AuthBase

from mlflow_fargate.errors import RegistryError
from mlflow_fargate.image.registry.authorization import Authorization, Credentials, is_loopback

T = TypeVar("T")
Body = bytes | Callable[[], Iterable[bytes]] | None
"""A callable creates the stream each time it is sent."""

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024  # manifests and configurations; the limit of distribution itself

_CONNECT_TIMEOUT_SECONDS = 15
# A registry checks the digest of a large blob before it responds to the last request of an upload.
_READ_TIMEOUT_SECONDS = 300
_RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504}
_BROKEN_CONNECTION = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)
_MAX_REDIRECTS = 5
# Docker Hub's API has a different host than its image references.
_API_HOSTS = {"docker.io": "registry-1.docker.io"}


class Refused(RegistryError):
    """The registry refused the request with HTTP status `status`."""

    def __init__(self, message: str, *, status: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Transient(RegistryError):
    """A failure that may go away on a retry."""


class Transport:
    """One registry over HTTP; each thread has its own session, so one Transport serves many threads."""

    def __init__(self, host: str, *, credentials: Credentials | None, insecure: bool) -> None:
        self._root = f"{'http' if insecure else 'https'}://{_API_HOSTS.get(host, host)}"
        self._host = host
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._authorization = Authorization(host, credentials=credentials, fetch_token=self._fetch_token)

    def close(self) -> None:
        for session in self._sessions:
            session.close()

    def send(
        self,
        method: str,
        url: str,
        *,
        scopes: tuple[str, ...],
        expected: Iterable[int],
        headers: dict[str, str] | None = None,
        body: Body = None,
    ) -> requests.Response:
        """Returns a response with an expected status, only for GET with a body; `url` can be a path on the registry.

        On a 401, the request is repeated once with a new header. A streamed body cannot be sent twice in one upload
        session, so the new header is used for the next attempt.
        """
        url = urljoin(self._root, url)
        self._refuse_downgrade(url)
        # A registry can redirect uploads to another host, which must not get its credentials.
        is_ours = urlsplit(url).netloc == urlsplit(self._root).netloc
        header = self._authorization.header(scopes) if is_ours else None
        response = self._request(method, url, header, headers, body)
        if response.status_code == 401 and is_ours:
            response.close()
            header = self._authorization.answer(response.headers.get("WWW-Authenticate", ""), scopes)
            if callable(body):
                raise Transient(f"Registry {self._host} required a new login in the middle of an upload.")
            response = self._request(method, url, header, headers, body)
        if response.status_code not in expected:
            with response:
                raise self._refusal(method, response)
        if method != "GET":
            self.read_document(response)  # nothing in it matters, but a connection is reused only after its end
        return response

    def retry(self, work: Callable[[], T]) -> T:
        """Returns what `work` returns; repeats it from the start while it raises Transient."""
        return stamina.RetryingCaller(attempts=6, timeout=None, wait_initial=0.5, wait_max=20)(Transient, work)

    @contextmanager
    def reading(self, url: str) -> Iterator[None]:
        """Converts the libraries' errors, from sending a request or reading its response, to RegistryError."""
        where = f"{_without_query(url)} (registry {self._host})"
        try:
            yield
        except requests.exceptions.SSLError as error:
            raise RegistryError(f"No secure connection to {where}: {_reason(error)}.") from error
        except _BROKEN_CONNECTION as error:
            raise Transient(f"The connection to {where} was lost: {_reason(error)}.") from error
        except (requests.RequestException, ValueError) as error:  # ValueError: a Location that is not a URL
            raise RegistryError(f"The request to {where} failed: {_reason(error)}.") from error

    def read_document(self, response: requests.Response) -> bytes:
        """Returns the whole body of a response that should be small; raises RegistryError if it is not."""
        with response, self.reading(response.url):
            data = b""
            for chunk in response.iter_content(65536):
                data += chunk
                if len(data) > MAX_DOCUMENT_BYTES:
                    raise RegistryError(
                        f"Registry {self._host} sent a document of more than {MAX_DOCUMENT_BYTES} bytes for "
                        f"{_without_query(response.url)}; the rest was not read."
                    )
            return data

    def _request(
        self, method: str, url: str, authorization: str | None, headers: dict[str, str] | None, body: Body
    ) -> requests.Response:
        with self.reading(url):
            return self._session().request(
                method,
                url,
                headers=headers,
                data=body() if callable(body) else body,
                auth=_Header(authorization),
                # Only reads are redirected (to the registry's storage).
                allow_redirects=method in {"GET", "HEAD"},
                timeout=(_CONNECT_TIMEOUT_SECONDS, _READ_TIMEOUT_SECONDS),
                stream=True,  # a response can be endless
            )

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = _Session()
            # Proxies are for other hosts; this machine is reached directly.
            session.trust_env = not is_loopback(self._host)
            self._local.session = session
            self._sessions.append(session)
        return session

    def _fetch_token(self, realm: str, query: dict[str, Any], authorization: str | None) -> dict[str, Any]:
        with self.reading(realm):
            response = self._session().get(
                realm, params=query, auth=_Header(authorization), timeout=_CONNECT_TIMEOUT_SECONDS, stream=True
            )
        if response.status_code != 200:
            with response:
                raise self._refusal("GET", response)
        try:
            return dict(json.loads(self.read_document(response)))
        except (ValueError, TypeError, RecursionError) as error:
            raise RegistryError(f"The token service {realm} of registry {self._host} did not return JSON.") from error

    def _refuse_downgrade(self, url: str) -> None:
        if self._root.startswith("https://") and not url.startswith("https://"):
            raise RegistryError(
                f"Registry {self._host} redirects to {_without_query(url)}, which is not HTTPS; nothing was sent.",
                hint="if it is behind a proxy that terminates TLS, make the proxy set X-Forwarded-Proto",
            )

    def _refusal(self, method: str, response: requests.Response) -> RegistryError:
        status = response.status_code
        where = f"Registry {self._host} returned {status} for {method} {_without_query(response.url)}"
        message = f"{where}: {_words(response)}."
        if status in _RETRIED_STATUSES:
            return Transient(message)
        return Refused(message, status=status, hint=_HINTS.get(status))


_HINTS = {
    401: "check the user name and the password for this registry",
    403: "allow these credentials to pull from and push to the repository",
    404: "check the name; some registries require creating a repository before the first push",
    405: "the registry does not allow this operation",
    413: "the registry, or a proxy in front of it, limits the size of layers",
}


class _Session(requests.Session):
    """A session that refuses redirects from HTTPS to HTTP."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = _MAX_REDIRECTS
        self.headers["User-Agent"] = "mlflow-fargate"
        # Layers are already compressed, and their digests are computed from these bytes.
        self.headers["Accept-Encoding"] = "identity"

    def get_redirect_target(self, response: requests.Response) -> str | None:
        target = super().get_redirect_target(response)
        if target and response.url.startswith("https://") and urlsplit(urljoin(response.url, target)).scheme != "https":
            raise RegistryError(
                f"{_without_query(response.url)} redirects to {_without_query(target)}, which is not HTTPS."
            )
        if target:
            response.close()  # requests would read the whole body of a redirect, which can be endless
        return target


class _Header(AuthBase):
    """Sets exactly this Authorization header or none; otherwise requests would read ~/.netrc."""

    def __init__(self, value: str | None) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value:
            request.headers["Authorization"] = self._value
        return request


def _words(response: requests.Response) -> str:
    """Returns the registry's message, from the specified error document or else the start of its text."""
    try:
        text = next(response.iter_content(4096), b"").decode(errors="replace")
    except (requests.RequestException, urllib3.exceptions.HTTPError):
        text = ""
    try:
        errors = json.loads(text)["errors"]
        return "; ".join(f"{error.get('code', '')} {error.get('message', '')}".strip() for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return " ".join(text.split())[:300] or response.reason or "no reason given"


def _reason(error: Exception) -> str:
    """Returns why a connection broke, without the URL that the libraries add."""
    cause = error.args[0] if error.args else error
    return str(getattr(cause, "reason", cause))


def _without_query(url: str) -> str:
    """Returns the URL for display: the query of a storage URL is a signature, which is a secret."""
    scheme, netloc, path, _, _ = urlsplit(url)
    return urlunsplit((scheme, netloc.rpartition("@")[2], path, "", ""))

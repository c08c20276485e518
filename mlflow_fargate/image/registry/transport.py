"""HTTP to one registry: sessions, authorization, redirects, retries, and what a refusal says to the user.

`client.py` knows the paths of the distribution API; this module knows what can go wrong on the way there.

RegistryError
├── Refused      the registry understood and said no; `status` tells how
└── Transient    worth another try: no connection, 429, 5xx
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
"""A callable makes the stream anew each time it is sent."""

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024  # manifests and configurations; what distribution itself refuses above

_CONNECT_TIMEOUT_SECONDS = 15
# A registry checks the digest of a large blob before it answers the last request of an upload.
_READ_TIMEOUT_SECONDS = 300
_RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504}
_BROKEN_CONNECTION = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
)
_MAX_REDIRECTS = 5
# Docker Hub's API does not live under the name that references carry.
_API_HOSTS = {"docker.io": "registry-1.docker.io"}


class Refused(RegistryError):
    """The registry said no, with HTTP status `status`."""

    def __init__(self, message: str, *, status: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Transient(RegistryError):
    """It did not work this time, and may the next."""


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
        """One answer with an expected status, for GET its body not yet read; `url` may be a path on the registry.

        A 401 is answered once with a fresh header. A streamed body is not sent twice over one upload session, so there
        the fresh header is for the next try.
        """
        url = urljoin(self._root, url)
        self._refuse_downgrade(url)
        # A registry may send uploads elsewhere; our credentials are for this one.
        is_ours = urlsplit(url).netloc == urlsplit(self._root).netloc
        header = self._authorization.header(scopes) if is_ours else None
        response = self._request(method, url, header, headers, body)
        if response.status_code == 401 and is_ours:
            response.close()
            header = self._authorization.answer(response.headers.get("WWW-Authenticate", ""), scopes)
            if callable(body):
                raise Transient(f"Registry {self._host} asked for a fresh login in the middle of an upload.")
            response = self._request(method, url, header, headers, body)
        if response.status_code not in expected:
            with response:
                raise self._refusal(method, response)
        return response

    def retry(self, work: Callable[[], T]) -> T:
        """What `work` returns, tried again (from its beginning) while it fails with Transient."""
        return stamina.RetryingCaller(attempts=6, timeout=None, wait_initial=0.5, wait_max=20)(Transient, work)

    @contextmanager
    def reading(self, url: str) -> Iterator[None]:
        """Around a request or the reading of its answer: what the libraries raise there becomes ours."""
        where = f"{_without_query(url)} (registry {self._host})"
        try:
            yield
        except requests.exceptions.SSLError as error:
            raise RegistryError(f"No safe connection to {where}: {_reason(error)}.") from error
        except _BROKEN_CONNECTION as error:
            raise Transient(f"The connection to {where} broke: {_reason(error)}.") from error
        except requests.RequestException as error:
            raise RegistryError(f"The request to {where} failed: {_reason(error)}.") from error

    def read_document(self, response: requests.Response) -> bytes:
        """The whole body of an answer that should be small; RegistryError when it is not."""
        with response, self.reading(response.url):
            data = b""
            for chunk in response.iter_content(65536):
                data += chunk
                if len(data) > MAX_DOCUMENT_BYTES:
                    raise RegistryError(
                        f"Registry {self._host} sent a document of more than {MAX_DOCUMENT_BYTES} bytes for "
                        f"{_without_query(response.url)}; it was not read further."
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
                # Only what is read may lead elsewhere (to the storage behind the registry).
                allow_redirects=method in {"GET", "HEAD"},
                timeout=(_CONNECT_TIMEOUT_SECONDS, _READ_TIMEOUT_SECONDS),
                # Read at once, so that the connection can be used again; only what is asked for may be large.
                stream=method == "GET",
            )

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = _Session()
            # A proxy is for the world outside; this machine is reached directly.
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
        except (ValueError, TypeError) as error:
            raise RegistryError(f"The token service {realm} of registry {self._host} answered without JSON.") from error

    def _refuse_downgrade(self, url: str) -> None:
        if self._root.startswith("https://") and not url.startswith("https://"):
            raise RegistryError(
                f"Registry {self._host} sends us to {_without_query(url)}, which is not HTTPS; nothing was sent there.",
                hint="if it stands behind a proxy that ends TLS, let the proxy pass X-Forwarded-Proto",
            )

    def _refusal(self, method: str, response: requests.Response) -> RegistryError:
        status = response.status_code
        where = f"Registry {self._host} answered {status} to {method} {_without_query(response.url)}"
        message = f"{where}: {_words(response)}."
        if status in _RETRIED_STATUSES:
            return Transient(message)
        return Refused(message, status=status, hint=_HINTS.get(status))


_HINTS = {
    401: "check the user name and the password for this registry",
    403: "allow these credentials to pull from and push to the repository",
    404: "check the name; a repository may have to be created before the first push",
    405: "this registry does not allow it",
    413: "the registry, or a proxy before it, limits the size of layers",
}


class _Session(requests.Session):
    """A session that refuses to be led from HTTPS to HTTP."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = _MAX_REDIRECTS
        self.headers["User-Agent"] = "mlflow-fargate"
        # Layers are compressed already, and their digests are of the bytes as they are.
        self.headers["Accept-Encoding"] = "identity"

    def get_redirect_target(self, response: requests.Response) -> str | None:
        target = super().get_redirect_target(response)
        if target and response.url.startswith("https://") and urlsplit(urljoin(response.url, target)).scheme != "https":
            raise RegistryError(
                f"{_without_query(response.url)} leads to {_without_query(target)}, which is not HTTPS; not followed."
            )
        return target


class _Header(AuthBase):
    """Exactly this Authorization header or none: without it requests would look into ~/.netrc."""

    def __init__(self, value: str | None) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value:
            request.headers["Authorization"] = self._value
        return request


def _words(response: requests.Response) -> str:
    """What the registry said, from the error document of the specification or else from the first of its text."""
    try:
        text = next(response.iter_content(4096), b"").decode(errors="replace")
    except (requests.RequestException, urllib3.exceptions.HTTPError):
        text = ""
    try:
        errors = json.loads(text)["errors"]
        return "; ".join(f"{error.get('code', '')} {error.get('message', '')}".strip() for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        return " ".join(text.split())[:300] or response.reason or "no reason given"


def _reason(error: Exception) -> str:
    """Why a connection broke, without the URL that the libraries put before it."""
    cause = error.args[0] if error.args else error
    return str(getattr(cause, "reason", cause))


def _without_query(url: str) -> str:
    """The URL for people: the query of a storage URL is a signature, and that is a secret."""
    scheme, netloc, path, _, _ = urlsplit(url)
    return urlunsplit((scheme, netloc.rpartition("@")[2], path, "", ""))

"""Authenticates to a registry: Basic, or a bearer token from the URL in the registry's challenge.

A request is answered 401 with a challenge, the challenge determines a header, and the header is used for all later
requests with the same scopes until the registry rejects it.
As in Docker, the registry's own user and password go to the token service that it names, also on another host.
Source: distribution-spec and distribution's docs/content/spec/auth/token.md; RFC 7235 for the challenge.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from mlflow_fargate.errors import RegistryError

Credentials = Callable[[], tuple[str, str] | None]
FetchToken = Callable[[str, dict[str, Any], str | None], dict[str, Any]]
"""(realm URL, query, Authorization header or None) → the token service's JSON answer."""

_PARAMETER = re.compile(r'([a-zA-Z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(r"(?:^|,)\s*(Basic|Bearer)(?=\s|,|$)", re.IGNORECASE)


class Authorization:
    """The Authorization headers for one registry, by scopes; thread-safe."""

    def __init__(self, host: str, *, credentials: Credentials | None, fetch_token: FetchToken) -> None:
        self._host = host
        self._credentials = credentials
        self._fetch_token = fetch_token
        self._headers: dict[tuple[str, ...], str] = {}
        self._lock = threading.Lock()

    def header(self, scopes: tuple[str, ...]) -> str | None:
        """Returns the latest header for these scopes; None if none was needed yet."""
        with self._lock:
            return self._headers.get(scopes)

    def answer(self, challenge: str, scopes: tuple[str, ...]) -> str:
        """Returns a new header for the registry's challenge; raises RegistryError without suitable credentials."""
        schemes = parse_challenges(challenge)
        if "bearer" in schemes:
            header = self._bearer(schemes["bearer"], scopes)
        elif "basic" in schemes:
            header = self._basic() or ""
        else:
            raise RegistryError(f"Registry {self._host} requires an unsupported authentication scheme: {challenge!r}.")
        if not header:
            raise RegistryError(
                f"Registry {self._host} requires a user name and a password.",
                hint=f"log in to {self._host}, or use a base image from a public registry",
            )
        with self._lock:
            self._headers[scopes] = header
        return header

    def _basic(self) -> str | None:
        pair = self._credentials() if self._credentials else None
        return f"Basic {base64.b64encode(':'.join(pair).encode()).decode()}" if pair else None

    def _bearer(self, challenge: dict[str, str], scopes: tuple[str, ...]) -> str:
        realm = challenge.get("realm", "")
        try:
            scheme, host, *_ = urlsplit(realm)
            here = is_loopback(self._host) and is_loopback(host)
        except ValueError as error:
            raise RegistryError(f"Registry {self._host} names an invalid token service: {realm!r}.") from error
        if scheme != "https" and not here:
            raise RegistryError(
                f"Registry {self._host} requests credentials at {realm!r}, which is not HTTPS; nothing was sent."
            )
        query: dict[str, Any] = {"scope": list(scopes)}
        if "service" in challenge:
            query["service"] = challenge["service"]
        answer = self._fetch_token(realm, query, self._basic())
        token = answer.get("token") or answer.get("access_token")
        if not token:
            raise RegistryError(f"The token service {realm} of registry {self._host} did not return a token.")
        return f"Bearer {token}"


def parse_challenges(header: str) -> dict[str, dict[str, str]]:
    """Returns the schemes of a WWW-Authenticate header in lower case, each with its parameters."""
    starts = list(_SCHEME.finditer(header))
    ends = [*(start.start() for start in starts[1:]), len(header)]
    return {
        start.group(1).lower(): {
            name.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain
            for name, quoted, plain in _PARAMETER.findall(header[start.end() : end])
        }
        for start, end in zip(starts, ends, strict=False)
    }


def is_loopback(host: str) -> bool:
    """Returns whether `host[:port]` is this machine; plain HTTP is used only there, as in Docker."""
    name = urlsplit(f"//{host}").hostname or ""
    return name in {"localhost", "::1"} or re.fullmatch(r"127(\.\d{1,3}){3}", name) is not None

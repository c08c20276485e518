"""Verifies AWS signatures made with the keys of this local stack, using botocore's signers.

Each stack generates random keys when it starts; they are in `stack.json` (mode 0600) and `mlflow-fargate local env`.
Supported are version 4 signatures, in the header and in presigned URLs, and S3's presigned URLs of version 2, boto3's
default. For a body sent in signed chunks only the first signature is verified, not that of each chunk.
Source: IAM user guide, "Create a signed AWS API request"; Amazon S3 API reference, "Authenticating Requests".
"""

from __future__ import annotations

import calendar
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any
from urllib.parse import quote, unquote_plus, unquote_to_bytes, urlsplit

from botocore.auth import HmacV1QueryAuth, S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
_DECLARED_PAYLOAD = re.compile(r"[0-9a-f]{64}|UNSIGNED-PAYLOAD|STREAMING-[A-Z0-9-]+")
_MOST_SKEW_SECONDS = 15 * 60
_MOST_EXPIRES_SECONDS = 7 * 24 * 3600
_HEADER = re.compile(r"AWS4-HMAC-SHA256 +Credential=([^, ]+), *SignedHeaders=([^, ]+), *Signature=([0-9a-f]{64})")
_SCOPE = re.compile(r"([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request")
_TIME_FORMAT = "%Y%m%dT%H%M%SZ"
HOW_TO_SIGN = 'set the keys with: eval "$(mlflow-fargate local env)"'


@dataclass(frozen=True)
class Keys:
    """The access key of a local stack, and values derived from it."""

    access_key_id: str
    secret_access_key: str = field(repr=False)

    @classmethod
    def random(cls) -> Keys:
        return cls(f"LOCAL{secrets.token_hex(8).upper()}", secrets.token_hex(32))

    @property
    def registry_password(self) -> str:
        """The password from GetAuthorizationToken: a docker configuration that stores it does not contain the keys."""
        return hmac.new(self.secret_access_key.encode(), b"registry", "sha256").hexdigest()

    @property
    def role_token(self) -> str:
        """What a task with a role sends to get its credentials, as to ECS's agent."""
        return hmac.new(self.secret_access_key.encode(), b"role", "sha256").hexdigest()


class SignatureRefused(Exception):
    """The request was not signed with the keys; `code` is AWS's error code, the message says what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Scope:
    """What a request is signed for; `service` in lower case."""

    service: str
    region: str


@dataclass(frozen=True)
class _Signature:
    """A signature of version 4 as the request claims it."""

    access_key_id: str
    date: str
    region: str
    service: str
    signed_headers: frozenset[str]
    signature: str
    timestamp: str
    expires_seconds: int | None  # None: the signature is in the header and valid for 15 minutes


def claimed_service(environ: Mapping[str, Any]) -> str | None:
    """Returns the service that a request claims to be signed for, unverified; None if it is not signed."""
    query = dict(_query(environ))
    if "AWSAccessKeyId" in query:
        return "s3"
    header = _HEADER.fullmatch(environ.get("HTTP_AUTHORIZATION", ""))
    scope = _SCOPE.fullmatch(header[1] if header else query.get("X-Amz-Credential", ""))
    return scope[4].lower() if scope else None


def verify(environ: dict[str, Any], keys: Keys, *, is_s3: bool = False, now: float | None = None) -> Scope:
    """Returns what the request is signed for with `keys`; SignatureRefused if it is not, with S3's codes if `is_s3`.

    The body is read, and can be read again. With `is_s3` it is not read: its digest is in X-Amz-Content-SHA256, and is
    compared when the body is read. `now` is in seconds since 1970.
    """
    verifier = _Verifier(environ, keys, is_s3=is_s3, now=time.time() if now is None else now)
    return verifier.verify()


class _Verifier:
    def __init__(self, environ: dict[str, Any], keys: Keys, *, is_s3: bool, now: float) -> None:
        self._environ = environ
        self._keys = keys
        self._credentials = Credentials(keys.access_key_id, keys.secret_access_key)
        self._is_s3 = is_s3
        self._now = now
        self._query = dict(_query(environ))

    def verify(self) -> Scope:
        if self._is_s3 and "AWSAccessKeyId" in self._query:
            self._verify_version_2()
            return Scope("s3", "")
        claimed = self._claimed()
        self._check_key(claimed.access_key_id)
        self._check_time(claimed)
        service = claimed.service.lower()
        if (service == "s3") != self._is_s3:
            raise self._mismatch()
        if not hmac.compare_digest(self._signature(claimed).encode(), claimed.signature.encode()):
            raise self._mismatch()
        return Scope(service, claimed.region)

    def _claimed(self) -> _Signature:
        header = self._environ.get("HTTP_AUTHORIZATION", "")
        query = self._query
        if header:
            match = _HEADER.fullmatch(header)
            credential, signed, signature = match.groups() if match else ("", "", "")
            timestamp, expires = self._timestamp(), None
        elif "X-Amz-Signature" in query:
            credential, signed = query.get("X-Amz-Credential", ""), query.get("X-Amz-SignedHeaders", "")
            signature, timestamp = query["X-Amz-Signature"], query.get("X-Amz-Date", "")
            expires = _int(query.get("X-Amz-Expires", ""))
            if expires is None or not 0 < expires <= _MOST_EXPIRES_SECONDS:
                raise self._refused("malformed", "X-Amz-Expires must be between 1 second and 7 days")
        else:
            raise self._refused("missing", "The request is not signed")
        scope = _SCOPE.fullmatch(credential)
        if scope is None:
            raise self._refused("malformed", "The signature cannot be parsed")
        return _Signature(
            access_key_id=scope[1],
            date=scope[2],
            region=scope[3],
            service=scope[4],
            signed_headers=frozenset(signed.lower().split(";")),
            signature=signature,
            timestamp=timestamp,
            expires_seconds=expires,
        )

    def _timestamp(self) -> str:
        """Returns X-Amz-Date, or Date without it."""
        if found := self._environ.get("HTTP_X_AMZ_DATE"):
            return str(found)
        try:
            return parsedate_to_datetime(self._environ.get("HTTP_DATE", "")).strftime(_TIME_FORMAT)
        except (TypeError, ValueError):
            return ""

    def _check_key(self, access_key_id: str) -> None:
        if not hmac.compare_digest(access_key_id.encode(), self._keys.access_key_id.encode()):
            raise self._refused("key", "The access key does not belong to this local stack")

    def _check_time(self, claimed: _Signature) -> None:
        try:
            made_at = calendar.timegm(time.strptime(claimed.timestamp, _TIME_FORMAT))
        except ValueError as error:
            raise self._refused("malformed", "The signature has no X-Amz-Date") from error
        if claimed.timestamp[:8] != claimed.date:
            raise self._refused("malformed", "The signature's scope and its X-Amz-Date have different dates")
        if made_at > self._now + _MOST_SKEW_SECONDS:
            raise self._refused("time", f"The signature's date is in the future ({claimed.timestamp})")
        if claimed.expires_seconds is None and made_at < self._now - _MOST_SKEW_SECONDS:
            raise self._refused("time", f"The signature is too old ({claimed.timestamp})")
        if claimed.expires_seconds is not None and self._now > made_at + claimed.expires_seconds:
            raise self._refused("expired", f"The presigned URL has expired ({claimed.timestamp})")

    def _signature(self, claimed: _Signature) -> str:
        """Returns the correct signature for this request."""
        headers = _headers(self._environ)
        unsigned = {name for name in headers if name.startswith("x-amz-")} - claimed.signed_headers
        if unsigned or "host" not in claimed.signed_headers:
            raise self._refused("mismatch", f"The signature does not cover {', '.join(sorted(unsigned)) or 'host'}")
        uri = str(self._environ.get("REQUEST_URI") or quote(self._environ.get("PATH_INFO", "/"), encoding="latin-1"))
        path = uri.partition("?")[0]
        # Some clients send a path with more or fewer escapes than they sign.
        path = quote(unquote_to_bytes(path), safe="/~") if self._is_s3 else path
        request = AWSRequest(
            method=self._environ["REQUEST_METHOD"],
            url=f"http://{headers['host']}{path}",
            headers={name: headers[name] for name in claimed.signed_headers if name in headers},
            params=[pair for pair in _query(self._environ) if pair[0] != "X-Amz-Signature"],
        )
        request.context["timestamp"] = claimed.timestamp
        request.context["payload"] = self._payload(headers.get("x-amz-content-sha256"), claimed)
        signer_class = _S3Signer if self._is_s3 else _Signer
        signer = signer_class(self._credentials, claimed.service, claimed.region)
        return str(signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request))

    def _payload(self, declared: str | None, claimed: _Signature) -> str:
        """Returns the payload hash that is part of the signature."""
        if self._is_s3:
            if declared is not None and not _DECLARED_PAYLOAD.fullmatch(declared):
                raise self._refused("malformed", "X-Amz-Content-SHA256 is not a digest")
            return declared or UNSIGNED_PAYLOAD
        body = self._environ["wsgi.input"].read(int(self._environ.get("CONTENT_LENGTH") or 0))
        self._environ["wsgi.input"] = BytesIO(body)
        digest = hashlib.sha256(body).hexdigest()
        if declared not in (None, UNSIGNED_PAYLOAD, digest):
            raise self._mismatch()
        return declared or digest

    def _verify_version_2(self) -> None:
        expires = _int(self._query.get("Expires", "")) or 0
        self._check_key(self._query["AWSAccessKeyId"])
        if self._now > expires:
            raise self._refused("expired", "The presigned URL has expired")
        path, _, query = str(self._environ.get("REQUEST_URI", "")).partition("?")
        headers = HTTPHeaders.from_dict(_headers(self._environ))
        signer = _Version2Signer(self._credentials, expires)
        url = urlsplit(f"http://here{path}?{query}")
        wanted = signer.get_signature(self._environ["REQUEST_METHOD"], url, headers)
        if not hmac.compare_digest(str(wanted).encode(), self._query.get("Signature", "").encode()):
            raise self._mismatch()

    def _mismatch(self) -> SignatureRefused:
        return self._refused("mismatch", "The signature was not made with the keys of this local stack")

    def _refused(self, reason: str, what: str) -> SignatureRefused:
        codes = _S3_CODES if self._is_s3 else _CODES
        return SignatureRefused(codes[reason], f"{what}; {HOW_TO_SIGN}")


class _AsReceived:
    """Signs exactly the given headers, and a payload with a known digest."""

    def headers_to_sign(self, request: Any) -> Any:
        return HTTPHeaders.from_dict({name.lower(): value for name, value in request.headers.items()})

    def payload(self, request: Any) -> str:
        return str(request.context["payload"])


class _Signer(_AsReceived, SigV4Auth):  # type: ignore[misc]  # botocore ships no types
    pass


class _S3Signer(_AsReceived, S3SigV4Auth):  # type: ignore[misc]
    pass


class _Version2Signer(HmacV1QueryAuth):  # type: ignore[misc]
    def _get_date(self) -> str:
        return str(self._expires)


_CODES = {
    "missing": "MissingAuthenticationToken",
    "malformed": "IncompleteSignature",
    "key": "InvalidClientTokenId",
    "mismatch": "SignatureDoesNotMatch",
    "time": "SignatureDoesNotMatch",
    "expired": "SignatureDoesNotMatch",
}
_S3_CODES = {
    "missing": "AccessDenied",
    "malformed": "AuthorizationHeaderMalformed",
    "key": "InvalidAccessKeyId",
    "mismatch": "SignatureDoesNotMatch",
    "time": "RequestTimeTooSkewed",
    "expired": "AccessDenied",
}


def _query(environ: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = [pair.partition("=") for pair in environ.get("QUERY_STRING", "").split("&") if pair]
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]


def _headers(environ: Mapping[str, Any]) -> dict[str, str]:
    """Returns the headers by lower-case name; WSGI passes bytes decoded as Latin-1, clients send UTF-8."""
    return {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value.encode("latin-1").decode(errors="replace")
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value)
    }


def _int(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,12}", text) else None

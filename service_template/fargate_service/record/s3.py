"""Writes objects to S3 with the credentials of the task's role.

Signed here, because a PUT of an object is all that is needed of AWS: botocore would add 25 MB to each image, and an
option that needs another package would need another image.
Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html and
https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import httpx

_ECS_AGENT = "http://169.254.170.2"
_TIMEOUT_SECONDS = 10.0
_EARLY_SECONDS = 300  # credentials are replaced so long before they expire
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")


class Credentials(NamedTuple):
    """A key; `token` and `expires` (ISO 8601) are those of a role."""

    access_key_id: str
    secret_access_key: str
    token: str | None = None
    expires: str | None = None

    @property
    def are_valid(self) -> bool:
        if self.expires is None:
            return True
        expires = datetime.fromisoformat(self.expires.replace("Z", "+00:00"))
        return (expires - datetime.now(timezone.utc)).total_seconds() > _EARLY_SECONDS


class NotWritten(Exception):
    """S3, or what it needs, refused; the message says who and why, without any secret."""


class Bucket:
    """A bucket in `region`; `environ` names where its credentials are, and S3 if it is not AWS's."""

    def __init__(self, name: str, region: str, environ: Mapping[str, str]) -> None:
        self._region, self._environ = region, environ
        suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
        # With the bucket in the path: certificates do not cover names of buckets with dots.
        self._url = f"{(endpoint or f'https://s3.{region}.{suffix}').rstrip('/')}/{name}"
        self._credentials: Credentials | None = None

    def put(self, key: str, content: bytes) -> None:
        """Writes an object; NotWritten if that failed."""
        url = f"{self._url}/{quote(key, safe='/-_.~')}"
        try:
            headers = sign_put(url, content, self._region, self._valid_credentials(), datetime.now(timezone.utc))
            answer = httpx.put(url, content=content, headers=headers, timeout=_TIMEOUT_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, LookupError, ValueError, TypeError) as error:
            raise NotWritten(f"{type(error).__name__}: no answer from S3, or no credentials") from error
        if answer.status_code != 200:
            self._credentials = None
            code = _CODE.search(answer.text[:2000])
            raise NotWritten(f"S3 answered {answer.status_code} {code[1] if code else ''}".strip())

    def _valid_credentials(self) -> Credentials:
        if self._credentials is None or not self._credentials.are_valid:
            self._credentials = read_credentials(self._environ)
        return self._credentials


def read_credentials(environ: Mapping[str, str]) -> Credentials:
    """Returns the credentials of the task's role from ECS's agent; without a role, those in the environment."""
    relative = environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    url = f"{_ECS_AGENT}{relative}" if relative else environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if url is None:
        return Credentials(
            environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"], environ.get("AWS_SESSION_TOKEN")
        )
    token = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
    headers = {"Authorization": token} if token else {}
    # Past any proxy in the environment: the address is the task's own.
    answer = httpx.get(url, headers=headers, timeout=_TIMEOUT_SECONDS, trust_env=False).raise_for_status().json()
    return Credentials(answer["AccessKeyId"], answer["SecretAccessKey"], answer.get("Token"), answer.get("Expiration"))


def sign_put(url: str, content: bytes, region: str, credentials: Credentials, now: datetime) -> dict[str, str]:
    """Returns the headers of a PUT to `url`, whose path is encoded as S3 expects, signed with version 4."""
    parts, at = urlsplit(url), now.strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(content).hexdigest()
    headers = {"host": parts.netloc, "x-amz-content-sha256": digest, "x-amz-date": at}
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    listed = "".join(f"{name}:{value}\n" for name, value in headers.items())
    request = f"PUT\n{parts.path}\n\n{listed}\n{';'.join(headers)}\n{digest}"
    scope = f"{at[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{credentials.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key_id}/{scope}, "
        f"SignedHeaders={';'.join(headers)}, Signature={signature}"
    )
    return {**headers, "authorization": authorization}

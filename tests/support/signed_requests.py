"""Requests signed by botocore, for tests that send what no boto3 client would send."""

from __future__ import annotations

from typing import Any

import requests
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from mlflow_fargate.local.signature import Keys


class _AsDeclared(S3SigV4Auth):  # type: ignore[misc]  # botocore ships no types
    """Keeps the test's X-Amz-Content-SHA256."""

    def payload(self, request: Any) -> Any:
        return request.context.get("declared") or super().payload(request)


def signed(
    method: str, url: str, keys: Keys, *, service: str = "s3", body: bytes = b"", headers: dict[str, str] | None = None
) -> requests.Request:
    """Returns a signed request to `service`; an X-Amz-Content-SHA256 in `headers` is kept."""
    request = AWSRequest(method=method, url=url, data=body, headers=headers or {})
    request.context["declared"] = (headers or {}).get("x-amz-content-sha256")
    signer = (_AsDeclared if service == "s3" else SigV4Auth)(
        Credentials(keys.access_key_id, keys.secret_access_key), service, "us-east-1"
    )
    signer.add_auth(request)
    return requests.Request(method, url, data=body, headers=dict(request.headers.items()))


def send(request: requests.Request, **changed_headers: str | None) -> requests.Response:
    """Sends it with headers added or, if None, removed; names have _ instead of -."""
    for name, value in changed_headers.items():
        request.headers[name.replace("_", "-")] = value
        if value is None:
            del request.headers[name.replace("_", "-")]
    with requests.Session() as session:
        session.trust_env = False
        return session.send(request.prepare(), timeout=30)

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from mlflow_fargate.errors import RegistryError
from mlflow_fargate.image.oci.image import sha256_digest
from mlflow_fargate.image.registry.authorization import is_loopback, parse_challenges
from mlflow_fargate.image.registry.client import Registry

BLOB = b"layer"
DIGEST = sha256_digest(BLOB)
PATH = f"/v2/models/blobs/{DIGEST}"
UPLOADS = "/v2/models/blobs/uploads/"
BASIC = {"WWW-Authenticate": 'Basic realm="https://ecr.example/",service="ecr"'}


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def token(value: str) -> bytes:
    return json.dumps({"token": value}).encode()


def bearer(scripted: Any) -> dict[str, str]:
    return {"WWW-Authenticate": f'Bearer realm="{scripted.url}/token",service="hub",scope="repository:x:pull"'}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="a, b"', {"basic": {"realm": "a, b"}}),
        (
            'Bearer realm="https://auth/token",service="s",scope="repository:a:pull,push"',
            {"bearer": {"realm": "https://auth/token", "service": "s", "scope": "repository:a:pull,push"}},
        ),
        ('Bearer realm="x", Basic realm="y"', {"bearer": {"realm": "x"}, "basic": {"realm": "y"}}),
        ('bearer realm="say \\"hi\\""', {"bearer": {"realm": 'say "hi"'}}),
        ("Negotiate", {}),
    ],
)
def test_challenges_are_parsed_with_quoted_commas(header: str, expected: dict[str, dict[str, str]]) -> None:
    assert parse_challenges(header) == expected


@pytest.mark.parametrize(
    "realm", ["http://[x", "https://[x/token", "https://a:b:c/", "https://h:99999/", "https://", ""]
)
def test_a_token_service_with_an_invalid_url_is_refused(scripted: Any, realm: str) -> None:
    scripted.answers("HEAD", PATH, (401, {"WWW-Authenticate": f'Bearer realm="{realm}"'}, b""))

    with Registry(scripted.host) as registry, pytest.raises(RegistryError):
        registry.has_blob("models", DIGEST)


def test_deeply_nested_responses_are_refused(scripted: Any) -> None:
    scripted.answers("HEAD", PATH, (401, bearer(scripted), b""))
    scripted.answers("GET", "/token", (200, {}, b"[" * 100_000))
    scripted.answers("POST", UPLOADS, (400, {}, b"[" * 4096))

    with Registry(scripted.host) as registry:
        with pytest.raises(RegistryError, match="did not return JSON"):
            registry.has_blob("models", DIGEST)
        with pytest.raises(RegistryError, match="returned 400"):
            registry.upload_blob("models", DIGEST, lambda: [BLOB])


def test_basic_credentials_are_sent_after_the_challenge_and_then_immediately(scripted: Any) -> None:
    scripted.answers("HEAD", PATH, (401, BASIC, b""), (200, {}, b""))

    with Registry(scripted.host, credentials=lambda: ("AWS", "password")) as registry:
        assert registry.has_blob("models", DIGEST)
        assert registry.has_blob("models", DIGEST)

    sent = [request.headers.get("Authorization") for request in scripted.requests]
    assert sent == [None, basic("AWS", "password"), basic("AWS", "password")]


def test_a_token_is_fetched_for_the_scope_and_reused(scripted: Any) -> None:
    scripted.answers("HEAD", PATH, (401, bearer(scripted), b""), (200, {}, b""))
    scripted.answers("GET", "/token", (200, {}, token("one")))

    with Registry(scripted.host, credentials=lambda: ("me", "secret")) as registry:
        registry.has_blob("models", DIGEST)
        registry.has_blob("models", DIGEST)

    asked = scripted.seen("GET")
    assert [request.path for request in asked] == ["/token?scope=repository%3Amodels%3Apull%2Cpush&service=hub"]
    assert asked[0].headers["Authorization"] == basic("me", "secret")
    assert [request.headers.get("Authorization") for request in scripted.seen("HEAD")] == [
        None,
        "Bearer one",
        "Bearer one",
    ]


def test_an_expired_token_is_renewed_once(scripted: Any) -> None:
    refused = (401, bearer(scripted), b"")
    scripted.answers("HEAD", PATH, refused, (200, {}, b""), refused, (200, {}, b""), refused)
    scripted.answers("GET", "/token", (200, {}, token("one")), (200, {}, token("two")), (200, {}, token("three")))

    with Registry(scripted.host) as registry:
        assert registry.has_blob("models", DIGEST)
        assert registry.has_blob("models", DIGEST)
        with pytest.raises(RegistryError, match=r"(?s)returned 401 .*hint: check the user name"):
            registry.has_blob("models", DIGEST)

    assert len(scripted.seen("GET")) == 3


def test_a_token_that_expires_before_the_bytes_starts_a_new_upload(scripted: Any) -> None:
    scripted.answers("POST", UPLOADS, (202, {"Location": "/upload"}, b""))
    scripted.answers("PATCH", "/upload", (401, BASIC, b""), (202, {"Location": "/upload"}, b""))
    scripted.answers("PUT", "/upload", (201, {}, b""))

    with Registry(scripted.host, credentials=lambda: ("AWS", "password")) as registry:
        assert registry.upload_blob("models", DIGEST, lambda: [BLOB]) == len(BLOB)

    assert [request.method for request in scripted.requests] == ["POST", "PATCH", "POST", "PATCH", "PUT"]
    assert scripted.requests[-1].headers["Authorization"] == basic("AWS", "password")


def test_without_credentials_the_error_asks_for_a_login(scripted: Any) -> None:
    scripted.answers("HEAD", PATH, (401, BASIC, b""))

    with Registry(scripted.host) as registry, pytest.raises(RegistryError, match=r"(?s)user name.*hint: log in to"):
        registry.has_blob("models", DIGEST)


def test_credentials_are_not_sent_to_another_host(scripted: Any) -> None:
    elsewhere = scripted.url.replace("127.0.0.1", "localhost")
    scripted.answers("POST", UPLOADS, (401, BASIC, b""), (202, {"Location": f"{elsewhere}/upload"}, b""))
    scripted.answers("PATCH", "/upload", (202, {"Location": "/upload"}, b""))
    scripted.answers("PUT", "/upload", (201, {}, b""))

    with Registry(scripted.host, credentials=lambda: ("AWS", "password")) as registry:
        registry.upload_blob("models", DIGEST, lambda: [BLOB])

    assert "Authorization" not in scripted.seen("PATCH")[0].headers


def test_a_token_service_without_https_gets_no_credentials(scripted: Any) -> None:
    challenge = {"WWW-Authenticate": 'Bearer realm="http://evil.example/token"'}
    scripted.answers("HEAD", PATH, (401, challenge, b""))

    with (
        Registry(scripted.host, credentials=lambda: ("a", "b")) as registry,
        pytest.raises(RegistryError, match="HTTPS"),
    ):
        registry.has_blob("models", DIGEST)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:5000", True),
        ("localhost", True),
        ("[::1]:1", True),
        ("127.0.0.1.evil.example", False),
        ("10.0.0.1", False),
    ],
)
def test_only_loopback_addresses_count_as_this_machine(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected

"""Logging in to CNCF distribution: with a password, with tokens, and with tokens that expire during an upload."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from mlflow_fargate.errors import RegistryError
from mlflow_fargate.image.oci.image import Descriptor, sha256_digest
from mlflow_fargate.image.registry.client import Registry
from tests.image.conftest import run_distribution

pytestmark = pytest.mark.slow

USER, PASSWORD = "deployer", "swordfish"
# bcrypt of the password, as `htpasswd -B` writes it: distribution supports nothing else.
HTPASSWD = "deployer:$2b$05$abcdefghijklmnopqrstuupWDwJQeCHYIBQy8WvkVB6ImhZ476YYy\n"
BLOB = b"layer" * 1000
# distribution tolerates a clock that is a minute off.
LEEWAY_SECONDS = 60


def credentials() -> tuple[str, str]:
    return USER, PASSWORD


def round_trip(registry: Registry, repository: str = "models") -> None:
    digest = sha256_digest(BLOB)
    registry.upload_blob(repository, digest, lambda: [BLOB])
    assert registry.has_blob(repository, digest)
    blob = Descriptor("application/octet-stream", digest, len(BLOB))
    assert b"".join(registry.stream_blob(repository, blob)) == BLOB


def test_a_registry_with_a_password_requires_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    auth = f"auth:\n  htpasswd:\n    realm: here\n    path: {tmp_path / 'htpasswd'}\n"
    with run_distribution(tmp_path, auth=auth) as host:
        with Registry(host, credentials=credentials) as known:
            round_trip(known)
        with (
            Registry(host, credentials=lambda: (USER, "wrong")) as wrong,
            pytest.raises(RegistryError, match=r"(?s)401.*hint: check the user name and the password") as caught,
        ):
            wrong.has_blob("models", sha256_digest(BLOB))
        with Registry(host) as stranger, pytest.raises(RegistryError, match="requires a user name and a password"):
            stranger.has_blob("models", sha256_digest(BLOB))
    assert "wrong" not in str(caught.value)


@dataclass
class TokenService:
    """Signs tokens as Docker Hub does: the requested scope for the known user, pull for everyone."""

    folder: Path
    life_seconds: float = 300
    asked: list[dict[str, list[str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tokens")])
        now = datetime.now(timezone.utc)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        (self.folder / "tokens.pem").write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def answer(self, query: dict[str, list[str]], authorization: str | None) -> str:
        self.asked.append(query)
        known = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            allowed = [action for action in actions.split(",") if authorization == known or action == "pull"]
            access.append({"type": kind, "name": name, "actions": allowed})
        now = int(time.time())
        claims = {
            "iss": "tokens",
            "aud": "here",
            "sub": USER,
            "iat": now - 300,
            "nbf": now - 300,
            "exp": now + self.life_seconds - LEEWAY_SECONDS,
            "jti": str(len(self.asked)),
            "access": access,
        }
        der = self._certificate.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        signed = f"{_url_safe(json.dumps(header).encode())}.{_url_safe(json.dumps(claims).encode())}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return json.dumps({"token": f"{signed}.{_url_safe(signature)}"})


def _url_safe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture
def tokens(tmp_path: Path) -> TokenService:
    return TokenService(tmp_path)


@pytest.fixture
def guarded(tokens: TokenService, tmp_path: Path) -> Iterator[str]:
    """A registry that requires tokens from that service."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            body = tokens.answer(query, self.headers.get("Authorization")).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    auth = (
        f"auth:\n  token:\n    realm: http://127.0.0.1:{server.server_port}/token\n    service: here\n"
        f"    issuer: tokens\n    rootcertbundle: {tmp_path / 'tokens.pem'}\n"
    )
    with run_distribution(tmp_path, auth=auth) as host:
        yield host
    server.shutdown()
    server.server_close()
    thread.join()


def test_tokens_are_fetched_by_scope_and_used_until_they_expire(guarded: str, tokens: TokenService) -> None:
    with Registry(guarded, credentials=credentials) as registry:
        round_trip(registry)

    scopes = [scope for query in tokens.asked for scope in query["scope"]]
    assert scopes == ["repository:models:pull,push", "repository:models:pull"]
    assert {query["service"][0] for query in tokens.asked} == {"here"}


def test_without_a_login_pull_works_and_push_is_refused(guarded: str) -> None:
    with Registry(guarded, credentials=credentials) as registry:
        round_trip(registry)

    with Registry(guarded) as anonymous:
        blob = Descriptor("application/octet-stream", sha256_digest(BLOB), len(BLOB))
        assert b"".join(anonymous.stream_blob("models", blob)) == BLOB
        with pytest.raises(RegistryError, match="401"):
            anonymous.upload_blob("models", sha256_digest(b"new"), lambda: [b"new"])


def test_no_byte_is_sent_twice_if_a_token_expires_during_an_upload(guarded: str, tokens: TokenService) -> None:
    tokens.life_seconds = 3
    opened = []

    def slowly() -> Iterator[bytes]:
        opened.append(time.monotonic())
        for start in range(0, len(BLOB), 500):
            yield BLOB[start : start + 500]
            time.sleep(0.5)

    with Registry(guarded, credentials=credentials) as registry:
        sent = registry.upload_blob("models", sha256_digest(BLOB), slowly)
        assert registry.has_blob("models", sha256_digest(BLOB))

    pushes = [query for query in tokens.asked if query["scope"] == ["repository:models:pull,push"]]
    assert len(pushes) >= 2
    assert len(opened) == 1
    assert sent == len(BLOB)

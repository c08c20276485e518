"""MLflow's settings for its S3 store have the effect that they have in MLflow's own artifact repository."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mlflow import environment_variables
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_fargate.aws.s3 import S3Artifacts
from mlflow_fargate.aws.session import AwsSession
from mlflow_fargate.errors import AwsError, InvalidOption
from mlflow_fargate.target import parse_target

OWNER = "123456789012"
CONTENT = b"flavors: {}\n"
LISTING = f"""<ListBucketResult><Name>bucket</Name><Prefix>m/</Prefix><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys>
<IsTruncated>false</IsTruncated><Contents><Key>m/MLmodel</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>
<ETag>"abc"</ETag><Size>{len(CONTENT)}</Size></Contents></ListBucketResult>""".encode()
SEEN: list[tuple[str | None, str]] = []


class Store(BaseHTTPRequestHandler):
    """A store with one object; it remembers the owner and the kind of signature of each request."""

    def do_GET(self) -> None:
        signature = "v4" if self.headers.get("Authorization", "").startswith("AWS4-") else "another"
        SEEN.append((self.headers.get("x-amz-expected-bucket-owner"), signature))
        body = LISTING if "list-type" in self.path else CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"abc"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a store with a certificate that it signed itself, as MinIO often has one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(host, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file = tmp_path / "store.pem"
    file.write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()) + signed.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    SEEN.clear()
    url = f"https://127.0.0.1:{server.server_port}"
    for variable in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "MLFLOW_S3_ENDPOINT_URL": url,
    }.items():
        monkeypatch.setenv(variable, value)
    yield url
    server.shutdown()
    server.server_close()


def ours() -> S3Artifacts:
    return S3Artifacts(AwsSession(parse_target("fargate:/us-east-1")).artifacts_client())


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_the_expected_owner_and_no_verification_apply_as_in_mlflow(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_S3_IGNORE_TLS", "true")
    monkeypatch.setenv("MLFLOW_S3_EXPECTED_BUCKET_OWNER", OWNER)
    theirs = [file.path for file in get_artifact_repository("s3://bucket/m").list_artifacts()]
    as_mlflow = set(SEEN)
    SEEN.clear()

    files = ours().files("s3://bucket/m")

    assert [file.path for file in files] == theirs == ["MLmodel"]
    assert ours().read("s3://bucket/m", "MLmodel", 1000) == CONTENT
    assert set(SEEN) == {(OWNER, "v4")}
    is_known = hasattr(environment_variables, "MLFLOW_S3_EXPECTED_BUCKET_OWNER")  # not to MLflow 3.5
    assert as_mlflow == {(OWNER if is_known else None, "v4")}


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_certificates_are_verified_unless_a_setting_says_otherwise(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AwsError, match="SSL validation failed"):
        ours().files("s3://bucket/m")

    monkeypatch.setenv("MLFLOW_S3_IGNORE_TLS", "yes")
    with pytest.raises(InvalidOption, match="MLFLOW_S3_IGNORE_TLS='yes' must be true or false"):
        ours()


@pytest.mark.parametrize("style", ["virtual", "path", "auto"])
def test_the_addressing_style_is_the_one_that_is_set(store: str, monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    monkeypatch.setenv("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", style)
    monkeypatch.setenv("MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION", "s3")

    config = AwsSession(parse_target("fargate:/us-east-1")).artifacts_client().meta.config

    assert (config.s3["addressing_style"], config.signature_version) == (style, "s3")

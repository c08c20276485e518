"""boto3's signatures and invalid ones, sent over HTTP to a complete gateway with its S3."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

import boto3
import botocore.auth
import pytest
import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from mlflow_fargate.local.signature import Keys, SignatureRefused, claimed_service, verify
from support.local_aws import running_aws
from support.signed_requests import send, signed

KEYS = Keys.random()
OTHERS = Keys.random()
FORM = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
IDENTITY = b"Action=GetCallerIdentity&Version=2011-06-15"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_aws(tmp_path_factory.mktemp("aws"), keys=KEYS) as running:
        yield running.url


def client(url: str, service: str, keys: Keys = KEYS, **config: Any) -> Any:
    return boto3.client(
        service,
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id=keys.access_key_id,
        aws_secret_access_key=keys.secret_access_key,
        config=Config(retries={"total_max_attempts": 1}, **config),
    )


def refused(call: Any, **arguments: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def test_every_stack_has_different_keys_and_repr_hides_them() -> None:
    assert KEYS.access_key_id != OTHERS.access_key_id
    assert KEYS.secret_access_key != OTHERS.secret_access_key
    assert KEYS.registry_password != OTHERS.registry_password
    assert len(KEYS.secret_access_key) == len(KEYS.registry_password) == 64
    assert KEYS.secret_access_key not in f"{KEYS!r}{KEYS.registry_password}"


@pytest.mark.parametrize(
    ("service", "operation", "arguments"),
    [
        ("sts", "get_caller_identity", {}),  # a form
        ("ecs", "list_clusters", {}),  # JSON, handled by the engine
        ("ecr", "get_authorization_token", {}),
        ("elbv2", "describe_load_balancers", {}),
        ("secretsmanager", "create_secret", {"Name": "a b/ü+c", "SecretString": "é 'quoted' + more"}),
        ("logs", "describe_log_groups", {"logGroupNamePrefix": "/x y"}),
        ("iam", "list_roles", {"PathPrefix": "/a b+c/"}),
        ("efs", "describe_file_systems", {"MaxItems": 3, "CreationToken": "a b+c=d&e/ü"}),  # REST: in the query
        ("lambda", "list_tags", {"Resource": "arn:aws:lambda:us-east-1:123456789012:function:a"}),  # and in the path
    ],
)
def test_requests_signed_with_the_keys_are_accepted_and_others_refused(
    aws: str, service: str, operation: str, arguments: dict[str, Any]
) -> None:
    try:
        getattr(client(aws, service), operation)(**arguments)
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] != 403, error  # one of them is a 404

    call = getattr(client(aws, service, OTHERS), operation)
    assert refused(call, **arguments) == (403, "InvalidClientTokenId")
    guessed = Keys(KEYS.access_key_id, OTHERS.secret_access_key)
    assert refused(getattr(client(aws, service, guessed), operation), **arguments) == (403, "SignatureDoesNotMatch")


@pytest.mark.parametrize("key", ["a", "a b/ü+c", "(x)!*'~,;=@&$", "//x/../y", "a%20b%2Fc", "100%"])
def test_s3_accepts_every_key_that_boto3_signs(aws: str, key: str) -> None:
    s3 = client(aws, "s3")
    s3.create_bucket(Bucket="models")

    s3.put_object(Bucket="models", Key=key, Body=b"content", Metadata={"note": "a  b"}, ContentType="text/x")
    assert s3.get_object(Bucket="models", Key=key)["Body"].read() == b"content"
    assert [item["Key"] for item in s3.list_objects_v2(Bucket="models", Prefix=key)["Contents"]] == [key]
    s3.delete_objects(Bucket="models", Delete={"Objects": [{"Key": key}]})

    for keys, code in ((OTHERS, "InvalidAccessKeyId"), (Keys(KEYS.access_key_id, "x"), "SignatureDoesNotMatch")):
        stranger = client(aws, "s3", keys)
        assert refused(stranger.put_object, Bucket="models", Key=key, Body=b"x") == (403, code)
        assert refused(stranger.list_objects_v2, Bucket="models") == (403, code)
    assert "Contents" not in s3.list_objects_v2(Bucket="models", Prefix=key)


def test_a_large_body_with_the_wrong_keys_gets_the_answer_of_s3(aws: str) -> None:
    put = client(aws, "s3", OTHERS).put_object

    assert refused(put, Bucket="models", Key="a", Body=b"x" * 3_000_000) == (403, "InvalidAccessKeyId")


@pytest.mark.parametrize("payload_is_signed", [True, False])
@pytest.mark.parametrize("body", [b"", b"content", b"x" * 3_000_000])
def test_signed_and_unsigned_bodies_are_accepted(aws: str, payload_is_signed: bool, body: bytes) -> None:
    s3 = client(aws, "s3", s3={"payload_signing_enabled": payload_is_signed})
    s3.create_bucket(Bucket="models")

    s3.put_object(Bucket="models", Key="body", Body=body, ChecksumAlgorithm="SHA256")

    assert s3.get_object(Bucket="models", Key="body")["Body"].read() == body


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_a_presigned_url_is_valid_only_for_its_request(aws: str, version: str) -> None:
    s3 = client(aws, "s3", signature_version=version)
    s3_plain = client(aws, "s3")
    s3_plain.create_bucket(Bucket="models")
    s3_plain.put_object(Bucket="models", Key="mine", Body=b"1")
    s3_plain.put_object(Bucket="models", Key="other", Body=b"2")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "models", "Key": "mine"}, ExpiresIn=60)
    old = s3.generate_presigned_url("get_object", Params={"Bucket": "models", "Key": "mine"}, ExpiresIn=1)
    others = client(aws, "s3", OTHERS, signature_version=version).generate_presigned_url(
        "get_object", Params={"Bucket": "models", "Key": "mine"}
    )
    time.sleep(2.1)

    assert requests.get(url).content == b"1"
    for strange in (
        requests.get(url.replace("/mine", "/other")),
        requests.put(url, data=b"x"),
        requests.delete(url),
        requests.get(url.replace("Expires=", "Expires=1")),
        requests.get(url.partition("?")[0]),
        requests.get(old),
        requests.get(others),
    ):
        assert strange.status_code == 403, strange.url
        assert "mlflow-fargate local env" in strange.text
    assert client(aws, "s3").get_object(Bucket="models", Key="mine")["Body"].read() == b"1"


def test_a_header_that_would_change_a_presigned_request_must_be_signed(aws: str) -> None:
    s3 = client(aws, "s3", signature_version="s3v4")
    s3.create_bucket(Bucket="models")
    s3.put_object(Bucket="models", Key="secret", Body=b"1")
    url = s3.generate_presigned_url("put_object", Params={"Bucket": "models", "Key": "copy"})

    assert requests.put(url, headers={"x-amz-copy-source": "models/secret"}).status_code == 403
    assert requests.put(url, data=b"x").status_code == 200


def test_unsigned_requests_are_refused_with_the_errors_of_the_protocol(aws: str) -> None:
    anonymous = requests.Request("POST", aws, data=IDENTITY, headers=dict(FORM))
    json = {"X-Amz-Target": "AmazonEC2ContainerServiceV20141113.ListClusters"}

    assert "<Code>MissingAuthenticationToken</Code>" in send(anonymous).text
    answered = send(requests.Request("POST", aws, data=b"{}", headers=json))
    assert (answered.status_code, answered.json()["__type"]) == (403, "MissingAuthenticationToken")
    for method, path in (("GET", ""), ("GET", "models?list-type=2"), ("POST", "models?delete"), ("PUT", "models/a")):
        answered = send(requests.Request(method, f"{aws}/{path}", headers={}))
        assert (answered.status_code, "<Code>AccessDenied</Code>" in answered.text) == (403, True)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path",
    ["moto-api/reset", "moto-api/data.json", "moto-api/", "%6doto-api/reset", "/moto-api/reset", "Moto-API/reset"],
)
def test_the_api_of_moto_itself_is_refused_even_with_valid_keys(aws: str, method: str, path: str) -> None:
    secrets = client(aws, "secretsmanager")
    name = f"kept-{method}-{quote(path, safe='')}".replace("%", "-")
    secrets.create_secret(Name=name, SecretString="1")

    unsigned = send(requests.Request(method, f"{aws}/{path}", headers={}))
    known = send(signed(method, f"{aws}/{path}", KEYS, service="sts"))

    assert unsigned.status_code == 403
    assert known.status_code in (403, 404)
    assert name in [
        item["Name"] for item in secrets.get_paginator("list_secrets").paginate().build_full_result()["SecretList"]
    ]


@pytest.mark.parametrize(("service", "codes"), [("s3", {"RequestTimeTooSkewed"}), ("sts", {"SignatureDoesNotMatch"})])
@pytest.mark.parametrize("hours", [-24, -1, 1, 24])
def test_a_signature_with_another_date_is_refused(
    aws: str, monkeypatch: pytest.MonkeyPatch, service: str, codes: set[str], hours: float
) -> None:
    then = datetime.now(timezone.utc) + timedelta(hours=hours)
    with monkeypatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda: then)
        request = signed("POST" if service == "sts" else "GET", f"{aws}/", KEYS, service=service)
    answered = send(request)

    assert answered.status_code == 403
    assert any(f"<Code>{code}</Code>" in answered.text for code in codes)


def test_a_signature_covers_the_body_the_headers_and_the_service(aws: str) -> None:
    def asked(**arguments: Any) -> requests.Request:
        return signed("POST", f"{aws}/", KEYS, service="sts", body=IDENTITY, **{"headers": dict(FORM), **arguments})

    assert send(asked()).status_code == 200
    other_body = asked()
    other_body.data = b"Action=AssumeRole&Version=2011-06-15"
    other_service = asked()
    other_service.headers["Authorization"] = other_service.headers["Authorization"].replace("/sts/", "/s3/")
    without_host = asked()
    without_host.headers["Authorization"] = without_host.headers["Authorization"].replace("host;", "")
    for request in (other_body, other_service, without_host):
        assert send(request).status_code == 403
    assert send(asked(), X_Amz_Security_Token="added").status_code == 403
    assert send(asked(), X_Amz_Date=None).status_code == 403
    assert send(asked(), Authorization=None).status_code == 403
    assert send(asked(), X_Amz_Content_SHA256="0" * 64).status_code == 403


def test_presigned_calls_of_other_services_are_verified(aws: str) -> None:
    url = client(aws, "sts").generate_presigned_url("get_caller_identity", HttpMethod="GET")

    assert requests.get(url).status_code == 200
    assert requests.get(url.replace("GetCallerIdentity", "GetSessionToken")).status_code == 403


def test_the_login_from_ecr_works_for_the_registry(aws: str) -> None:
    data = client(aws, "ecr").get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")

    assert (user, password) == ("AWS", KEYS.registry_password)
    assert requests.get(f"{data['proxyEndpoint']}/v2/", auth=(user, password)).status_code == 200
    assert requests.get(f"{data['proxyEndpoint']}/v2/").status_code == 401


def environ_of(request: requests.Request) -> dict[str, Any]:
    """Returns the environ as waitress would build it."""
    prepared = request.prepare()
    path, _, query = prepared.path_url.partition("?")
    headers = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in prepared.headers.items()}
    body = prepared.body or b""
    return {
        **headers,
        "HTTP_HOST": "127.0.0.1:1",
        "REQUEST_METHOD": prepared.method,
        "REQUEST_URI": prepared.path_url,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body if isinstance(body, bytes) else body.encode()),
    }


@given(
    text=st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=200),
    query=st.sampled_from(
        ["", "X-Amz-Signature=", "X-Amz-Credential=a/1/b/sts/aws4_request&X-Amz-Signature=", "AWSAccessKeyId="]
    ),
)
def test_any_text_in_place_of_a_signature_is_refused(text: str, query: str) -> None:
    environ = environ_of(requests.Request("GET", f"http://127.0.0.1:1/?{query}{quote(text)}"))
    environ["HTTP_AUTHORIZATION"] = "" if query else text
    environ["HTTP_X_AMZ_DATE"] = text

    claimed_service(environ)
    for is_s3 in (True, False):
        with pytest.raises(SignatureRefused):
            verify(environ, KEYS, is_s3=is_s3)


@given(
    path=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    query=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        max_size=4,
    ),
    body=st.binary(max_size=50),
    changed=st.integers(min_value=0, max_value=63),
)
def test_a_signed_request_is_accepted_and_refused_if_a_digit_changes(
    path: str, query: dict[str, str], body: bytes, changed: int
) -> None:
    named = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items())
    url = f"http://127.0.0.1:1/{quote(path)}?{named}"
    request = AWSRequest("POST", url, data=body, headers={})
    SigV4Auth(Credentials(KEYS.access_key_id, KEYS.secret_access_key), "sts", "eu-west-1").add_auth(request)
    environ = environ_of(requests.Request("POST", "http://127.0.0.1:1/", data=body, headers=dict(request.headers)))
    uri = url.removeprefix("http://127.0.0.1:1")
    environ |= {"REQUEST_URI": uri, "QUERY_STRING": named}

    assert verify(dict(environ), KEYS).region == "eu-west-1"
    environ["wsgi.input"].seek(0)
    header = environ["HTTP_AUTHORIZATION"]
    digit = "0" if header[-1 - changed] != "0" else "1"
    environ["HTTP_AUTHORIZATION"] = f"{header[: len(header) - 1 - changed]}{digit}{header[len(header) - changed :]}"
    with pytest.raises(SignatureRefused):
        verify(environ, KEYS)

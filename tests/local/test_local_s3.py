"""The disk S3 through boto3 and MLflow, behind the server that the local stack uses."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_fargate.local.s3.app import S3App
from mlflow_fargate.local.s3.store import Condition, S3Store
from mlflow_fargate.local.signature import Keys
from mlflow_fargate.local.wsgi_server import WsgiServer
from support.signed_requests import send, signed

MEBIBYTE = 1024 * 1024
KEYS = Keys("local", "local")


@contextmanager
def serve(root: Path) -> Iterator[str]:
    app = S3App(root, keys=KEYS)
    with WsgiServer(app, threads=4, access_key_id=KEYS.access_key_id) as server:
        yield server.url
    app.close()


def client_for(url: str, **config: Any) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"max_attempts": 0}, **config),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "s3"


@pytest.fixture
def url(root: Path) -> Iterator[str]:
    with serve(root) as address:
        yield address


@pytest.fixture
def s3(url: str) -> Any:
    client = client_for(url)
    client.create_bucket(Bucket="models")
    return client


def refused(call: Callable[..., Any], **arguments: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]


def files_under(root: Path) -> list[Path]:
    return [path for name in ("data", "incoming") for path in (root / name).rglob("*") if path.is_file()]


def test_a_bucket_is_created_found_listed_and_deleted(s3: Any) -> None:
    s3.create_bucket(Bucket="models")  # creating it again is not an error, as in us-east-1
    s3.put_object(Bucket="models", Key="a", Body=b"")

    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["models"]
    assert s3.head_bucket(Bucket="models")["BucketRegion"] == "us-east-1"
    assert s3.get_bucket_location(Bucket="models")["LocationConstraint"] is None
    assert refused(s3.delete_bucket, Bucket="models") == (409, "BucketNotEmpty")
    s3.delete_object(Bucket="models", Key="a")
    s3.delete_bucket(Bucket="models")
    assert refused(s3.head_bucket, Bucket="models") == (404, "404")
    assert refused(s3.list_objects_v2, Bucket="models") == (404, "NoSuchBucket")


def test_invalid_bucket_names_are_refused(url: str) -> None:
    for name in ("Not_A_Bucket", "ab"):
        assert send(signed("PUT", f"{url}/{name}", KEYS)).status_code == 400


def test_an_object_is_returned_with_its_headers_and_metadata(s3: Any) -> None:
    s3.put_object(
        Bucket="models",
        Key="iris/MLmodel",
        Body=b"flavors:",
        ContentType="text/yaml",
        CacheControl="no-cache",
        ContentEncoding="identity",
        Metadata={"run-id": "abc"},
    )

    got = s3.get_object(Bucket="models", Key="iris/MLmodel")
    head = s3.head_object(Bucket="models", Key="iris/MLmodel")

    assert got["Body"].read() == b"flavors:"
    assert head["ETag"] == got["ETag"] == f'"{hashlib.md5(b"flavors:").hexdigest()}"'
    for answer in (got, head):
        assert answer["ContentType"] == "text/yaml"
        assert answer["CacheControl"] == "no-cache"
        assert answer["ContentEncoding"] == "identity"
        assert answer["Metadata"] == {"run-id": "abc"}
        assert answer["ContentLength"] == 8


def test_a_missing_object_or_bucket_is_reported(s3: Any) -> None:
    assert refused(s3.get_object, Bucket="models", Key="x") == (404, "NoSuchKey")
    assert refused(s3.head_object, Bucket="models", Key="x") == (404, "404")
    assert refused(s3.get_object, Bucket="nobody", Key="x") == (404, "NoSuchBucket")
    assert refused(s3.put_object, Bucket="nobody", Key="x", Body=b"") == (404, "NoSuchBucket")
    s3.delete_object(Bucket="models", Key="x")  # deleting a missing object is not an error


@pytest.mark.parametrize(
    ("asked", "content", "content_range"),
    [
        ("bytes=2-4", b"234", "bytes 2-4/10"),
        ("bytes=8-", b"89", "bytes 8-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=5-99", b"56789", "bytes 5-9/10"),
    ],
)
def test_a_range_of_an_object_is_returned(s3: Any, asked: str, content: bytes, content_range: str) -> None:
    s3.put_object(Bucket="models", Key="digits", Body=b"0123456789")

    answer = s3.get_object(Bucket="models", Key="digits", Range=asked)

    assert (answer["Body"].read(), answer["ContentRange"]) == (content, content_range)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206


def test_a_range_outside_the_object_is_refused(s3: Any) -> None:
    s3.put_object(Bucket="models", Key="digits", Body=b"0123456789")

    assert refused(s3.get_object, Bucket="models", Key="digits", Range="bytes=10-") == (416, "InvalidRange")


def test_if_none_match_accepts_only_the_first_write(s3: Any) -> None:
    outcomes: list[str] = []

    def write(name: bytes) -> None:
        try:
            s3.put_object(Bucket="models", Key="lock", Body=name, IfNoneMatch="*")
            outcomes.append("won")
        except ClientError as error:
            outcomes.append(error.response["Error"]["Code"])

    threads = [threading.Thread(target=write, args=(b"%d" % n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["PreconditionFailed"] * 5 + ["won"]


def test_if_match_overwrites_only_the_object_with_that_etag(s3: Any, root: Path) -> None:
    etag = s3.put_object(Bucket="models", Key="lock", Body=b"one")["ETag"]
    s3.put_object(Bucket="models", Key="lock", Body=b"two", IfMatch=etag)

    assert refused(s3.put_object, Bucket="models", Key="lock", Body=b"three", IfMatch=etag) == (
        412,
        "PreconditionFailed",
    )
    assert refused(s3.put_object, Bucket="models", Key="none", Body=b"", IfMatch=etag) == (404, "NoSuchKey")
    assert s3.get_object(Bucket="models", Key="lock")["Body"].read() == b"two"
    assert len(files_under(root)) == 1


def test_if_none_match_on_a_read_returns_304_for_a_known_object(s3: Any) -> None:
    etag = s3.put_object(Bucket="models", Key="a", Body=b"a")["ETag"]

    assert refused(s3.get_object, Bucket="models", Key="a", IfNoneMatch=etag)[0] == 304
    assert refused(s3.head_object, Bucket="models", Key="a", IfNoneMatch=etag)[0] == 304
    assert refused(s3.get_object, Bucket="models", Key="a", IfMatch='"other"')[0] == 412
    assert s3.get_object(Bucket="models", Key="a", IfNoneMatch='"other"')["Body"].read() == b"a"


def test_hostile_keys_cannot_leave_the_root(s3: Any, root: Path) -> None:
    keys = [
        "a",
        "a/b",
        "a/",
        "/",
        "//x",
        "../../escape",
        "a/../b",
        ".",
        "..",
        "%2e%2e/x",
        "ü/日本 +&<>'\"",
        "a\nb",
        "~",
    ]
    keys.append("k" * 1024)
    for key in keys:
        s3.put_object(Bucket="models", Key=key, Body=key.encode())

    listed = s3.list_objects_v2(Bucket="models")["Contents"]
    assert [item["Key"] for item in listed] == sorted(keys, key=str.encode)
    for key in keys:
        assert s3.get_object(Bucket="models", Key=key)["Body"].read() == key.encode()
    assert {path.name for path in root.iterdir()} >= {"data", "incoming", "index.sqlite3"}
    assert {path.name for path in root.parent.iterdir()} == {"s3"}
    assert refused(s3.put_object, Bucket="models", Key="k" * 1025, Body=b"") == (400, "KeyTooLongError")
    s3.delete_objects(Bucket="models", Delete={"Objects": [{"Key": key} for key in keys if key != "a\nb"]})
    assert [item["Key"] for item in s3.list_objects_v2(Bucket="models")["Contents"]] == ["a\nb"]


def test_a_listing_groups_keys_by_folder(s3: Any) -> None:
    for key in ("a/1", "a/2", "a/b/3", "a0", "b/1", "c"):
        s3.put_object(Bucket="models", Key=key, Body=b"x")

    top = s3.list_objects_v2(Bucket="models", Delimiter="/")
    inside = s3.list_objects_v2(Bucket="models", Delimiter="/", Prefix="a/")

    assert [item["Key"] for item in top["Contents"]] == ["a0", "c"]
    assert [item["Prefix"] for item in top["CommonPrefixes"]] == ["a/", "b/"]
    assert [item["Key"] for item in inside["Contents"]] == ["a/1", "a/2"]
    assert [item["Prefix"] for item in inside["CommonPrefixes"]] == ["a/b/"]
    assert s3.list_objects_v2(Bucket="models", Prefix="nothing")["KeyCount"] == 0
    assert s3.list_objects_v2(Bucket="models", MaxKeys=0)["KeyCount"] == 0


@pytest.mark.parametrize("verb", ["list_objects", "list_objects_v2"])
@pytest.mark.parametrize("page_size", [1, 2, 3, 7])
def test_pages_add_up_to_the_whole_listing(s3: Any, verb: str, page_size: int) -> None:
    for key in ("a/1", "a/2", "b", "c/1", "c/2", "d e+f", "é"):
        s3.put_object(Bucket="models", Key=key, Body=b"x")

    pages = list(
        s3.get_paginator(verb).paginate(Bucket="models", Delimiter="/", PaginationConfig={"PageSize": page_size})
    )

    assert [item["Key"] for page in pages for item in page.get("Contents", [])] == ["b", "d e+f", "é"]
    assert [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])] == ["a/", "c/"]
    assert all(len(page.get("Contents", [])) + len(page.get("CommonPrefixes", [])) <= page_size for page in pages)


def test_start_after_starts_after_a_key(s3: Any) -> None:
    for key in ("a", "b", "c"):
        s3.put_object(Bucket="models", Key=key, Body=b"x")

    assert [item["Key"] for item in s3.list_objects_v2(Bucket="models", StartAfter="a")["Contents"]] == ["b", "c"]


@given(
    keys=st.sets(st.text(alphabet="ab/é", min_size=1, max_size=5), max_size=20),
    prefix=st.text(alphabet="ab/", max_size=2),
    delimiter=st.sampled_from(["", "/", "ab"]),
    limit=st.integers(min_value=1, max_value=4),
)
@settings(max_examples=60, deadline=None)
def test_a_listing_matches_its_definition(
    tmp_path_factory: pytest.TempPathFactory, keys: set[str], prefix: str, delimiter: str, limit: int
) -> None:
    store = S3Store(tmp_path_factory.mktemp("s3"))
    store.create_bucket("models")
    for key in keys:
        store.put_object("models", key.encode(), store.receive([b""]), headers={}, condition=Condition())

    found: list[str] = []
    begin: bytes | None = b""
    while begin is not None:
        page = store.list_objects(
            "models", prefix=prefix.encode(), delimiter=delimiter.encode(), begin=begin, limit=limit
        )
        found += [item.key.decode() for item in page.objects] + [item.decode() for item in page.common_prefixes]
        begin = page.resume_at
    store.close()

    expected = set()
    for key in keys:
        if key.startswith(prefix):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            expected.add(key if cut < 0 else key[: cut + len(delimiter)])
    assert sorted(found) == sorted(expected)


@pytest.mark.slow
def test_thousands_of_keys_are_listed_quickly(root: Path) -> None:
    store = S3Store(root)
    store.create_bucket("models")
    file = store.receive([b""])
    with store.transaction() as index:
        rows = [("models", b"run/%d/%d" % (n % 5, n), file.file, 0, file.md5, 1.0, "{}") for n in range(20_000)]
        index.executemany("INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    store.close()

    with serve(root) as url:
        s3 = client_for(url)
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket="models")
        assert sum(page["KeyCount"] for page in pages) == 20_000
        folders = s3.list_objects_v2(Bucket="models", Prefix="run/", Delimiter="/")

    assert [item["Prefix"] for item in folders["CommonPrefixes"]] == [f"run/{n}/" for n in range(5)]


def test_a_large_file_is_uploaded_in_parts_and_downloaded_in_ranges(s3: Any, tmp_path: Path, root: Path) -> None:
    content = os.urandom(17 * MEBIBYTE + 3)
    (tmp_path / "up").write_bytes(content)
    config = TransferConfig(multipart_threshold=8 * MEBIBYTE, multipart_chunksize=8 * MEBIBYTE)
    extra = {"ContentType": "model/keras", "Metadata": {"a": "b"}}

    s3.upload_file(str(tmp_path / "up"), "models", "big", Config=config, ExtraArgs=extra)
    s3.download_file("models", "big", str(tmp_path / "down"), Config=config)

    md5s = [hashlib.md5(content[at : at + 8 * MEBIBYTE]).digest() for at in range(0, len(content), 8 * MEBIBYTE)]
    head = s3.head_object(Bucket="models", Key="big")
    assert (tmp_path / "down").read_bytes() == content
    assert head["ETag"] == f'"{hashlib.md5(b"".join(md5s)).hexdigest()}-3"'
    assert (head["ContentType"], head["Metadata"]) == ("model/keras", {"a": "b"})
    assert len(files_under(root)) == 1


def test_parts_are_listed_and_an_aborted_upload_leaves_nothing_behind(s3: Any, root: Path) -> None:
    upload = s3.create_multipart_upload(Bucket="models", Key="big")["UploadId"]
    where = {"Bucket": "models", "Key": "big", "UploadId": upload}
    for number in (2, 1, 3):
        s3.upload_part(**where, PartNumber=number, Body=b"%d" % number)
    s3.upload_part(**where, PartNumber=3, Body=b"three again")

    pages = list(s3.get_paginator("list_parts").paginate(**where, PaginationConfig={"PageSize": 2}))
    under_way = s3.list_multipart_uploads(Bucket="models")["Uploads"]

    assert [(part["PartNumber"], part["Size"]) for page in pages for part in page["Parts"]] == [(1, 1), (2, 1), (3, 11)]
    assert [(item["Key"], item["UploadId"]) for item in under_way] == [("big", upload)]
    s3.abort_multipart_upload(**where)
    assert files_under(root) == []
    assert refused(s3.upload_part, **where, PartNumber=1, Body=b"") == (404, "NoSuchUpload")


def test_completing_with_wrong_parts_is_refused(s3: Any) -> None:
    upload = s3.create_multipart_upload(Bucket="models", Key="big")["UploadId"]
    where = {"Bucket": "models", "Key": "big", "UploadId": upload}
    etags = [s3.upload_part(**where, PartNumber=number, Body=b"small")["ETag"] for number in (1, 2)]

    def complete(*parts: tuple[int, str]) -> tuple[int, str]:
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in parts]
        return refused(s3.complete_multipart_upload, **where, MultipartUpload={"Parts": listed})

    assert complete((2, etags[1]), (1, etags[0])) == (400, "InvalidPartOrder")
    assert complete((1, '"0"')) == (400, "InvalidPart")
    assert complete((1, etags[0]), (2, etags[1])) == (400, "EntityTooSmall")
    assert refused(s3.upload_part, **where, PartNumber=10001, Body=b"") == (400, "InvalidArgument")


def test_a_conditional_completion_checks_the_existing_object(s3: Any) -> None:
    s3.put_object(Bucket="models", Key="big", Body=b"first")
    upload = s3.create_multipart_upload(Bucket="models", Key="big")["UploadId"]
    where = {"Bucket": "models", "Key": "big", "UploadId": upload}
    parts = [{"PartNumber": 1, "ETag": s3.upload_part(**where, PartNumber=1, Body=b"x")["ETag"]}]

    outcome = refused(s3.complete_multipart_upload, **where, MultipartUpload={"Parts": parts}, IfNoneMatch="*")

    assert outcome == (412, "PreconditionFailed")
    assert s3.get_object(Bucket="models", Key="big")["Body"].read() == b"first"


def test_copies_keep_or_replace_metadata(s3: Any) -> None:
    s3.put_object(Bucket="models", Key="a b/ü", Body=b"content", Metadata={"k": "v"})
    source = {"Bucket": "models", "Key": "a b/ü"}

    s3.copy_object(Bucket="models", Key="kept", CopySource=source)
    s3.copy_object(Bucket="models", Key="new", CopySource=source, Metadata={"n": "w"}, MetadataDirective="REPLACE")

    assert s3.get_object(Bucket="models", Key="kept")["Metadata"] == {"k": "v"}
    assert s3.get_object(Bucket="models", Key="new")["Metadata"] == {"n": "w"}
    assert s3.get_object(Bucket="models", Key="new")["Body"].read() == b"content"
    assert refused(s3.copy_object, Bucket="models", Key="a b/ü", CopySource=source) == (400, "InvalidRequest")


def test_a_large_object_is_copied_in_parts(s3: Any) -> None:
    content = os.urandom(11 * MEBIBYTE)
    s3.put_object(Bucket="models", Key="big", Body=content)

    s3.copy(
        {"Bucket": "models", "Key": "big"}, "models", "copy", Config=TransferConfig(multipart_chunksize=MEBIBYTE * 6)
    )

    head = s3.head_object(Bucket="models", Key="copy")
    assert head["ETag"].endswith('-2"')
    assert s3.get_object(Bucket="models", Key="copy")["Body"].read() == content


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_bodies_with_a_checksum_in_the_trailer_are_decoded(s3: Any, algorithm: str) -> None:
    class Unseekable(io.RawIOBase):
        """Like a pipe: boto3 must send it chunked, with the checksum after it."""

        def __init__(self, content: bytes) -> None:
            self._stream = io.BytesIO(content)

        def read(self, size: int = -1) -> bytes:
            return self._stream.read(size)

        def readable(self) -> bool:
            return True

    content = os.urandom(300_000)
    s3.put_object(Bucket="models", Key="seekable", Body=io.BytesIO(content), ChecksumAlgorithm=algorithm)
    s3.upload_fileobj(Unseekable(content), "models", "pipe", ExtraArgs={"ChecksumAlgorithm": algorithm})

    for key in ("seekable", "pipe"):
        answer = s3.get_object(Bucket="models", Key=key)
        assert answer["Body"].read() == content
        assert "ContentEncoding" not in answer


def test_signed_aws_chunks_are_decoded(s3: Any, url: str) -> None:
    body = b"5;chunk-signature=aa\r\nhello\r\n6;chunk-signature=bb\r\n world\r\n0;chunk-signature=cc\r\n\r\n"
    headers = {
        "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "x-amz-decoded-content-length": "11",
        "Content-Encoding": "aws-chunked,gzip",
    }

    assert send(signed("PUT", f"{url}/models/a", KEYS, body=body, headers=headers)).status_code == 200
    answer = s3.get_object(Bucket="models", Key="a")
    assert answer["Body"].read() == b"hello world"
    assert answer["ContentEncoding"] == "gzip"


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}, b"not empty", "BadDigest"),
        ({"x-amz-checksum-crc32": "AAAAAA=="}, b"not empty", "BadDigest"),
        ({"x-amz-content-sha256": "0" * 64}, b"not empty", "XAmzContentSHA256Mismatch"),
        ({"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}, b"9\r\nshort", "IncompleteBody"),
        ({"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}, b"no chunks", "IncompleteBody"),
        (
            {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x-amz-trailer": "x-amz-checksum-crc32"},
            b"1\r\na\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n",
            "BadDigest",
        ),
    ],
)
def test_a_damaged_body_is_refused_and_leaves_nothing_behind(
    *, s3: Any, url: str, root: Path, headers: dict[str, str], body: bytes, code: str
) -> None:
    answer = send(signed("PUT", f"{url}/models/a", KEYS, body=body, headers=headers))

    assert (answer.status_code, f"<Code>{code}</Code>" in answer.text) == (400, True)
    assert refused(s3.get_object, Bucket="models", Key="a") == (404, "NoSuchKey")
    assert files_under(root) == []


@pytest.mark.parametrize("signature", ["s3", "s3v4"])
def test_presigned_urls_upload_and_download(s3: Any, url: str, signature: str) -> None:
    signer = client_for(url, signature_version=signature)
    arguments = {"Bucket": "models", "Key": "a b/ü"}

    up = signer.generate_presigned_url("put_object", Params=arguments)
    down = signer.generate_presigned_url("get_object", Params={**arguments, "ResponseContentType": "text/x"})

    assert requests.put(up, data=b"content").status_code == 200
    answer = requests.get(down)
    assert (answer.content, answer.headers["Content-Type"]) == (b"content", "text/x")


def test_unsupported_operations_are_reported(s3: Any) -> None:
    assert refused(s3.get_bucket_policy, Bucket="models") == (501, "NotImplemented")
    assert refused(s3.put_object_tagging, Bucket="models", Key="a", Tagging={"TagSet": []}) == (501, "NotImplemented")


def test_all_data_survives_a_restart(root: Path) -> None:
    with serve(root) as url:
        s3 = client_for(url)
        s3.create_bucket(Bucket="models")
        s3.put_object(Bucket="models", Key="a", Body=b"content", Metadata={"k": "v"})
        upload = s3.create_multipart_upload(Bucket="models", Key="b")["UploadId"]
        etag = s3.upload_part(Bucket="models", Key="b", UploadId=upload, PartNumber=1, Body=b"part")["ETag"]
    (root / "incoming" / "half").write_bytes(b"left by a killed process")
    (root / "data" / "zz").mkdir()
    (root / "data" / "zz" / "zzhalf").write_bytes(b"left by a killed process")

    with serve(root) as url:
        s3 = client_for(url)
        parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
        s3.complete_multipart_upload(Bucket="models", Key="b", UploadId=upload, MultipartUpload=parts)
        assert s3.get_object(Bucket="models", Key="a")["Body"].read() == b"content"
        assert s3.get_object(Bucket="models", Key="a")["Metadata"] == {"k": "v"}
        assert s3.get_object(Bucket="models", Key="b")["Body"].read() == b"part"
    assert len(files_under(root)) == 2


def test_a_reader_can_finish_an_object_that_is_replaced(s3: Any, root: Path) -> None:
    old, new = os.urandom(40 * MEBIBYTE), b"new"
    s3.put_object(Bucket="models", Key="a", Body=old)

    body = s3.get_object(Bucket="models", Key="a")["Body"]
    begun = body.read(1000)
    s3.put_object(Bucket="models", Key="a", Body=new)

    assert begun + body.read() == old
    assert s3.get_object(Bucket="models", Key="a")["Body"].read() == new
    assert len(files_under(root)) == 1


@pytest.mark.slow
def test_mlflow_stores_and_loads_artifacts(url: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "local")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    local = tmp_path / "model"
    (local / "data").mkdir(parents=True)
    (local / "MLmodel").write_text("flavors: {}")
    (local / "data" / "model.keras").write_bytes(os.urandom(9 * MEBIBYTE))
    repository = S3ArtifactRepository("s3://models/1/models/m-1/artifacts")

    repository.log_artifacts(str(local))
    listed = {(item.path, item.is_dir, item.file_size) for item in repository.list_artifacts()}
    (tmp_path / "down").mkdir()
    repository.download_artifacts("", str(tmp_path / "down"))

    assert listed == {("MLmodel", False, 11), ("data", True, None)}
    for name in ("MLmodel", "data/model.keras"):
        assert (tmp_path / "down" / name).read_bytes() == (local / name).read_bytes()
    repository.delete_artifacts()
    assert repository.list_artifacts() == []

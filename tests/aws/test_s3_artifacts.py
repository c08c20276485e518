"""S3Artifacts against moto's S3 over HTTP, and against a server that hangs up half way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest

from mlflow_fargate.aws.s3 import S3Artifacts, make_s3_client
from mlflow_fargate.errors import AwsError, ModelNotFound, ModelUnusable
from mlflow_fargate.resolved_model import ModelFile

ROOT = "s3://artifacts/models/m-1"


@pytest.fixture
def client(s3_endpoint_url: str) -> Iterator[Any]:
    session = boto3.Session("test", "test", region_name="us-east-1")
    client = make_s3_client(session, s3_endpoint_url)
    client.create_bucket(Bucket="artifacts")
    yield client
    for item in client.list_objects_v2(Bucket="artifacts").get("Contents", []):
        client.delete_object(Bucket="artifacts", Key=item["Key"])
    client.delete_bucket(Bucket="artifacts")


def put(client: Any, path: str, content: bytes) -> None:
    client.put_object(Bucket="artifacts", Key=f"models/m-1/{path}", Body=content)


def test_files_are_listed_with_sizes_and_etags(client: Any) -> None:
    put(client, "MLmodel", b"hello")
    put(client, "data/", b"")  # how consoles show a folder
    put(client, "data/what?#is this.bin", b"")
    client.put_object(Bucket="artifacts", Key="models/m-10/other", Body=b"x")

    store = S3Artifacts(client)
    assert store.files(ROOT) == (
        ModelFile("MLmodel", 5, "5d41402abc4b2a76b9719d911017c592"),
        ModelFile("data/what?#is this.bin", 0, "d41d8cd98f00b204e9800998ecf8427e"),
    )
    assert [file.path for file in store.files(ROOT, recursive=False)] == ["MLmodel"]
    assert store.files("s3://artifacts/models/m") == ()


def test_more_files_than_one_page_are_all_listed(client: Any) -> None:
    for number in range(5):
        put(client, str(number), b"x")
    paginate = client.get_paginator
    small_pages = type(
        "", (), {"paginate": lambda _, **asked: paginate("list_objects_v2").paginate(**asked, MaxKeys=2)}
    )
    client.get_paginator = lambda operation: small_pages()

    assert len(S3Artifacts(client).files(ROOT)) == 5


@pytest.mark.parametrize("size_bytes", [0, 1, 2000, 2001, 10_000])
def test_a_file_comes_whole_in_one_piece_or_in_many(client: Any, tmp_path: Path, size_bytes: int) -> None:
    content = bytes(number % 251 for number in range(size_bytes))
    put(client, "data/what?#is this.bin", content)
    store, moved = S3Artifacts(client, part_bytes=1000, streams=3), list[int]()
    (file,) = store.files(ROOT)
    store.download(ROOT, file, tmp_path / "copy", moved.append)

    assert (tmp_path / "copy").read_bytes() == content
    assert sum(moved) == size_bytes


@pytest.mark.parametrize("part_bytes", [100, 10_000])
def test_a_file_that_changed_after_it_was_listed_is_refused(client: Any, tmp_path: Path, part_bytes: int) -> None:
    put(client, "MLmodel", b"a" * 1000)
    store = S3Artifacts(client, part_bytes=part_bytes)
    (file,) = store.files(ROOT)
    put(client, "MLmodel", b"b" * 1000)

    with pytest.raises(ModelUnusable, match="changed"):
        store.download(ROOT, file, tmp_path / "copy", lambda _: None)


def test_reading_stops_at_the_limit(client: Any) -> None:
    put(client, "MLmodel", b"hello")
    store = S3Artifacts(client)

    assert store.read(ROOT, "MLmodel", 5) == b"hello"
    with pytest.raises(ModelUnusable, match="larger than the limit of 4 bytes"):
        store.read(ROOT, "MLmodel", 4)


def test_what_is_not_there_is_not_found(client: Any) -> None:
    with pytest.raises(ModelNotFound, match=r"s3://artifacts/models/m-1/nothing does not exist \(NoSuchKey\)"):
        S3Artifacts(client).read(ROOT, "nothing", 10)
    with pytest.raises(ModelNotFound, match="NoSuchBucket"):
        S3Artifacts(client).files("s3://no-such-bucket/model")


class _Server(BaseHTTPRequestHandler):
    """Answers `body`, cut in the middle as often as `cuts` says; `status` other than 200 is S3's error form."""

    body, cuts, status, seen = b"0123456789" * 100, 0, 200, 0

    def do_GET(self) -> None:
        kind = type(self)
        kind.seen += 1
        self.send_response(self.status)
        content = self.body
        if self.status != 200:
            content = b"<Error><Code>AccessDenied</Code><Message>no s3:GetObject for you</Message></Error>"
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if kind.cuts:
            kind.cuts -= 1
            content = content[: len(content) // 2]
        self.wfile.write(content)
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def rude() -> Iterator[tuple[type[_Server], S3Artifacts]]:
    handler = type("Handler", (_Server,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    session = boto3.Session("test", "test", region_name="us-east-1")
    yield handler, S3Artifacts(make_s3_client(session, f"http://127.0.0.1:{server.server_port}"))
    server.shutdown()
    server.server_close()


def test_an_interrupted_body_is_requested_again(rude: tuple[type[_Server], S3Artifacts], tmp_path: Path) -> None:
    handler, store = rude
    handler.cuts = 2
    moved: list[int] = []
    store.download(ROOT, ModelFile("weights", 1000, "x"), tmp_path / "copy", moved.append)

    assert (tmp_path / "copy").read_bytes() == handler.body
    assert (handler.seen, sum(moved)) == (3, 1000)


def test_a_refusal_names_the_right_that_is_missing(rude: tuple[type[_Server], S3Artifacts]) -> None:
    handler, store = rude
    handler.status = 403
    with pytest.raises(AwsError, match='"Action": "s3:GetObject"') as caught:
        store.read(ROOT, "MLmodel", 10)

    assert (caught.value.operation, caught.value.code) == ("s3:GetObject", "AccessDenied")


def test_a_longer_body_than_was_listed_is_refused(rude: tuple[type[_Server], S3Artifacts], tmp_path: Path) -> None:
    _, store = rude
    with pytest.raises(ModelUnusable, match="changed"):
        store.download(ROOT, ModelFile("weights", 10, "x"), tmp_path / "copy", lambda _: None)


def test_a_stream_is_the_whole_file_in_order(client: Any) -> None:
    content = bytes(range(256)) * 40
    put(client, "weights", content)
    put(client, "empty", b"")
    store = S3Artifacts(client, stream_part_bytes=1000)
    empty, weights = store.files(ROOT)

    assert b"".join(store.stream(ROOT, weights)) == content
    assert list(store.stream(ROOT, empty)) == []


def test_a_stream_of_a_file_that_changed_is_refused(client: Any) -> None:
    put(client, "weights", b"a" * 50_000)
    store = S3Artifacts(client, stream_part_bytes=1000)
    (file,) = store.files(ROOT)
    stream = store.stream(ROOT, file)
    assert next(stream) == b"a" * 1000

    put(client, "weights", b"b" * 50_000)

    with pytest.raises(ModelUnusable, match="changed"):
        list(stream)


def test_a_stream_requests_an_interrupted_part_again(rude: tuple[type[_Server], S3Artifacts]) -> None:
    handler, store = rude
    handler.cuts = 2

    assert b"".join(store.stream(ROOT, ModelFile("weights", 1000, "x"))) == handler.body
    assert handler.seen == 3
    with pytest.raises(ModelUnusable, match="changed"):
        list(store.stream(ROOT, ModelFile("weights", 10, "x")))

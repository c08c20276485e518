"""The parts of the record of requests: signatures, bodies, columns, and the queue."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import json
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
import requests
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from fargate_service.http.image_upload import RECORDED_FILES, read_images
from fargate_service.record import writer as writing
from fargate_service.record.body import Body, Columns, recorded_text
from fargate_service.record.recorder import is_sampled
from fargate_service.record.s3 import Credentials, NotWritten, sign_put
from fargate_service.record.writer import Writer

AT = datetime(2026, 12, 1, 5, 20, tzinfo=timezone.utc)
HIDING = Columns(frozenset({"email"}), frozenset({"name"}), b"key")


def body(content: bytes, content_type: bytes = b"application/json", limit: int = 100, piece: int = 7) -> Body:
    made = Body(content_type, is_encoded=False, limit=limit, take_room=lambda size: True)
    for begin in range(0, len(content), piece):
        made.feed(content[begin : begin + piece])
    return made


def recorded(content: bytes, content_type: bytes = b"application/json", columns: Columns = HIDING, **more: Any) -> Any:
    return recorded_text(body(content, content_type, limit=10_000), columns, is_request=more.get("is_request", True))


def hidden(value: object) -> str:
    return hmac.new(b"key", json.dumps(value).encode(), "sha256").hexdigest()


@pytest.mark.parametrize("token", [None, "session/token=="])
@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x00content"])
def test_a_signature_is_botocores(token: str | None, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: AT.replace(tzinfo=None))
    url = "https://s3.eu-central-1.amazonaws.com/my.bucket/a%20b/endpoint%3Ddefault/date%3D2026-12-01/x.jsonl.gz"
    request = AWSRequest(method="PUT", url=url, data=content)
    S3SigV4Auth(BotoCredentials("AKID", "secret", token), "s3", "eu-central-1").add_auth(request)

    ours = sign_put(url, content, "eu-central-1", Credentials("AKID", "secret", token), AT)

    assert ours["authorization"] == request.headers["Authorization"]


def test_a_body_over_the_limit_is_not_recorded_and_says_so() -> None:
    assert recorded_text(body(b'"' + 98 * b"x" + b'"'), Columns(frozenset(), frozenset()), is_request=True)[1] is None
    for is_request, code in ((True, "MAX_REQUEST_SIZE_EXCEEDED"), (False, "MAX_RESPONSE_SIZE_EXCEEDED")):
        assert recorded_text(body(101 * b"x"), HIDING, is_request=is_request) == (None, code)


def test_of_files_only_names_sizes_and_digests_are_recorded() -> None:
    image, _ = recorded(b"PNG", b"image/png")
    form = body(b"--B\r\n", b"multipart/form-data; boundary=B")
    form.files.append({"name": "a.png", "size": 3, "sha256": "0a"})

    assert recorded_text(form, HIDING, is_request=True) == ('[{"name": "a.png", "size": 3, "sha256": "0a"}]', None)
    assert json.loads(image) == [{"name": None, "size": 3, "sha256": hashlib.sha256(b"PNG").hexdigest()}]


ROW = {"email": "ada@example.com", "name": "Ada", "age": 36}
KEPT = {"name": hidden("Ada"), "age": 36}


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        ({"dataframe_records": [ROW, {"age": 1}]}, {"dataframe_records": [KEPT, {"age": 1}]}),
        ({"instances": [ROW]}, {"instances": [KEPT]}),
        (
            {"inputs": {key: [value] for key, value in ROW.items()}, "params": {"email": 1, "top": 2}},
            {"inputs": {key: [value] for key, value in KEPT.items()}, "params": {"top": 2}},
        ),
        (
            {"dataframe_split": {"index": [0], "columns": list(ROW), "data": [list(ROW.values())]}},
            {"dataframe_split": {"index": [0], "columns": list(KEPT), "data": [list(KEPT.values())]}},
        ),
        ({"customer": {"email": 1, "deep": [ROW]}}, {"customer": {"deep": [KEPT]}}),
    ],
)
def test_columns_are_dropped_or_hashed_in_every_format(document: object, wanted: object) -> None:
    text, code = recorded(json.dumps(document).encode())

    assert json.loads(text) == wanted
    assert code is None


def test_columns_of_csv_are_dropped_or_hashed() -> None:
    text, _ = recorded(b'age,email,name\r\n36,"ada@example.com",Ada\r\n', b"text/csv; charset=utf-8")

    assert text == f"age,name\n36,{hidden('Ada')}\n"


@pytest.mark.parametrize(
    "content",
    [
        b'{"inputs": [["ada@example.com", 1]]}',
        b'{"instances": ["ada@example.com"]}',
        b'{"dataframe_split": {"data": [["ada@example.com"]]}}',
        b'{"dataframe_split": {"columns": ["email", "age"], "data": [["ada@example.com"]]}}',
        b'{"dataframe_split": {"columns": "email", "data": [["ada@example.com"]]}}',
        b'[["ada@example.com"]]',
        b'{"dataframe_records": [{"email": "ada@example.com"',
        b"ada@example.com",
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_request_whose_columns_cannot_be_found_is_not_recorded(content: bytes) -> None:
    assert recorded_text(body(content, limit=200_000, piece=10_000), HIDING, is_request=True) == (
        None,
        "REQUEST_NOT_READABLE",
    )
    assert recorded(b"ada@example.com,1\n", b"text/csv") == (None, "REQUEST_NOT_READABLE")


def test_columns_in_an_answer_are_hidden_too() -> None:
    assert recorded(b'{"predictions": [1.5, 2]}', is_request=False) == ('{"predictions": [1.5, 2]}', None)
    text, _ = recorded(json.dumps({"predictions": [ROW]}).encode(), is_request=False)
    assert json.loads(text) == {"predictions": [KEPT]}
    assert recorded(b"data: ada@example.com\n\n", b"text/event-stream", is_request=False)[0] is None


JSON = st.recursive(
    st.none() | st.integers() | st.just("secret@example.com"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["email", "a", "columns", "data", "inputs"]), inner, max_size=4)
    ),
)


@given(JSON)
def test_no_value_below_a_dropped_name_is_ever_recorded(document: Any) -> None:
    def below(value: Any, *, is_hidden: bool) -> bool:
        if isinstance(value, dict):
            return any(below(one, is_hidden=is_hidden or name == "email") for name, one in value.items())
        if isinstance(value, list):
            return any(below(one, is_hidden=is_hidden) for one in value)
        return is_hidden and value == "secret@example.com"

    text, code = recorded(json.dumps(document).encode())

    assert (text is None) == (code is not None)
    assert text is None or not below(json.loads(text), is_hidden=False)


def test_sampling_is_by_the_id_and_near_the_fraction() -> None:
    ids = [f"request-{number}" for number in range(10_000)]
    tenth = {one for one in ids if is_sampled(one, 0.1)}

    assert tenth == {one for one in ids if is_sampled(one, 0.1)} < {one for one in ids if is_sampled(one, 0.5)}
    assert abs(len(tenth) - 1000) < 5 * (10_000 * 0.1 * 0.9) ** 0.5


class Store:
    """Takes files, after as many refusals as `fails`."""

    def __init__(self, fails: int = 0) -> None:
        self.fails, self.files = fails, dict[str, list[str]]()
        self.open = threading.Event()
        self.open.set()

    def put(self, key: str, content: bytes) -> None:
        self.open.wait(30)
        if self.fails:
            self.fails -= 1
            raise NotWritten("S3 answered 503 SlowDown")
        self.files[key] = gzip.decompress(content).decode().splitlines()


def row(number: int, hour: int = 5) -> Callable[[], tuple[str, bytes]]:
    return lambda: (f"date=2026-12-01/hour={hour:02}", f"{number}\n".encode())


def run(store: Store, seconds: float = 20) -> Writer:
    made = Writer("p/", store.put)
    made.start("task")
    for number in range(10):
        made.add(row(number, 5 + (number >= 5)), 0, is_lost=False)
    made.close(seconds)
    return made


def test_rows_are_written_by_the_hour_and_flushed_when_the_writer_closes() -> None:
    store = Store(fails=1)
    run(store)

    assert [key.rpartition("/")[0] for key in store.files] == [f"p/date=2026-12-01/hour=0{hour}" for hour in (5, 6)]
    assert all(key.rpartition("/")[2].startswith("task-") for key in store.files)
    assert [line for file in store.files.values() for line in file] == [str(number) for number in range(10)]


def test_what_cannot_be_written_is_counted_as_lost_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "bentoml.model")
    store = Store(fails=1000)
    run(store, seconds=2)

    assert store.files == {}
    assert "5 records were lost: S3 answered 503 SlowDown" in caplog.text


def test_a_store_that_hangs_delays_the_end_only_as_long_as_it_may(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "bentoml.model")
    store = Store()
    store.open.clear()
    run(store, seconds=0.5)
    store.open.set()

    assert "10 records were lost: the task ended before S3 took them" in caplog.text


def test_without_room_rows_are_lost_and_counted_and_room_comes_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("WARNING", "bentoml.model")
    monkeypatch.setattr(writing, "MOST_BYTES", 3500)
    store = Store()
    made = Writer("p/", store.put)
    for number in range(5):
        made.add(row(number), 0, is_lost=False)
    made.start("task")
    made.close(20)

    assert [line for file in store.files.values() for line in file] == ["0", "1", "2"]
    assert "2 records were lost: the queue was full" in caplog.text
    assert made.take_room(3500)


def test_of_a_forms_files_names_sizes_and_digests_are_recorded() -> None:
    form = requests.Request("POST", "http://any", files={"image": ("a.png", b"PNG"), "other": ("b" * 300, b"second")})
    prepared = form.prepare()
    content_type = prepared.headers["Content-Type"].encode()
    recorded: list[dict[str, Any]] = []
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", content_type)], RECORDED_FILES: recorded}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": prepared.body}

    images = asyncio.run(read_images(Request(scope, receive), 32))

    assert images.files == [b"PNG", b"second"]
    assert recorded == [
        {"name": "a.png", "size": 3, "sha256": hashlib.sha256(b"PNG").hexdigest()},
        {"name": 256 * "b", "size": 6, "sha256": hashlib.sha256(b"second").hexdigest()},
    ]

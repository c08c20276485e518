"""Calling a deployed model, against a server with scripted responses."""

from __future__ import annotations

import contextlib
import io
import json
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import stamina
from hypothesis import given
from hypothesis import strategies as st

from mlflow_fargate import scoring
from mlflow_fargate.config import parse_config
from mlflow_fargate.deployments.callees import Callee, Callees
from mlflow_fargate.errors import InvalidOption, PredictionFailed, PredictionTimeout, RolloutTimeout
from mlflow_fargate.scoring import asking


class ToldServer(ThreadingHTTPServer):
    """Sends `answers` (status, body) in turn, repeating the last one, and records the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, bytes]] = [(200, b'{"predictions": [1]}')]
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.takes_seconds = 0.0
        self.go_on = threading.Event()
        self.keeps_bodies = True
        self.redirects_to: str | None = None
        self.received_bytes = 0
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}/churn"


def own_api(*names: str, required: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Returns an API's OpenAPI document as BentoML writes it."""
    fields = {name: {"type": "integer"} for name in names}
    schema = {"type": "object", "properties": fields, "required": names if required is None else required}
    return {"post": {"requestBody": {"content": {"application/json": {"schema": schema}}}}}


OWN_DOCS = json.dumps(
    {"paths": {"/readyz": {"get": {}}, "/draw": own_api("number"), "/add": own_api("a", "b", required=("a",))}}
).encode()


class Handler(BaseHTTPRequestHandler):
    server: ToldServer

    def do_POST(self) -> None:
        body = b"".join(self.chunks()) if "Transfer-Encoding" in self.headers else self.rfile.read(self.length())
        self.server.go_on.wait(self.server.takes_seconds)
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        status, answer = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        self.send_response(status)
        if self.server.redirects_to:
            self.send_header("Location", self.server.redirects_to)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # the client has disconnected
            self.wfile.write(answer)

    do_GET = do_POST

    def length(self) -> int:
        return int(self.headers.get("Content-Length", 0))

    def chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            chunk = self.rfile.read(size)
            self.server.received_bytes += size
            yield chunk if self.server.keeps_bodies else b""
            self.rfile.readline()
        self.rfile.readline()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[ToldServer]:
    server = ToldServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server() -> Iterator[ToldServer]:
    with serving() as server:
        yield server


@pytest.fixture
def other_server() -> Iterator[ToldServer]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Retries as often as usual, without the pauses."""
    with stamina.set_testing(True, attempts=4, cap=True):
        yield


class Clock:
    """A clock that advances only when sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def text_of(inputs: Any) -> bytes:
    return b"".join(scoring.JsonStream(scoring.make_document(inputs)))


def document(inputs: Any) -> Any:
    return json.loads(text_of(inputs), parse_constant=pytest.fail)


def test_a_table_is_sent_as_split_with_null_for_missing_values() -> None:
    table = pd.DataFrame({"a": [1, 2], "b": [0.1, None], "c": ["x", None], "d": [pd.Timestamp("2026-01-02"), pd.NaT]})

    assert document(table) == {
        "dataframe_split": {
            "columns": ["a", "b", "c", "d"],
            "data": [[1, 0.1, "x", "2026-01-02T00:00:00"], [2, None, None, None]],
        }
    }


def test_no_digit_of_a_number_is_lost() -> None:
    sent = document(pd.DataFrame({"whole": [2**53 + 1], "fraction": [0.1 + 0.2]}))

    assert sent["dataframe_split"]["data"] == [[9007199254740993, 0.30000000000000004]]


def test_nullable_columns_keep_their_types() -> None:
    table = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": pd.array([True, None], dtype="boolean")})

    assert document(table)["dataframe_split"]["data"] == [[1, True], [None, None]]


@pytest.mark.parametrize(
    ("inputs", "sent"),
    [
        (pd.Series([1, 2], name="a"), {"dataframe_split": {"columns": ["a"], "data": [[1], [2]]}}),
        ([{"a": 1}, {"a": np.float32(0.5)}], {"dataframe_records": [{"a": 1}, {"a": 0.5}]}),
        ([[1, 2], [3, float("nan")]], {"inputs": [[1, 2], [3, None]]}),
        (np.array([[1, 2]], dtype="int64"), {"inputs": [[1, 2]]}),
        ({"noise": np.zeros((1, 2)), "label": np.array([[7]])}, {"inputs": {"noise": [[0, 0]], "label": [[7]]}}),
        ({"instances": [[1]], "params": {"t": 0.5}}, {"instances": [[1]], "params": {"t": 0.5}}),
        ({"messages": [{"role": "user", "content": "hi"}]}, {"messages": [{"role": "user", "content": "hi"}]}),
        (7, {"inputs": 7}),
        ([datetime(2026, 1, 2, tzinfo=timezone.utc)], {"inputs": ["2026-01-02T00:00:00+00:00"]}),
        ([Decimal("0.5"), b"\0"], {"inputs": [0.5, "AA=="]}),
    ],
)
def test_inputs_become_a_request(inputs: Any, sent: Any) -> None:
    assert document(inputs) == sent


@pytest.mark.parametrize(
    "request_",
    [
        {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [3, 4]]}},
        {"dataframe_split": {"index": [0], "columns": ["a"], "data": [[1]]}},
        {"dataframe_records": [{"a": 1, "b": 2}]},
        {"inputs": [[1, 2], [3, 4]]},
        {"inputs": [1, 2]},
        {"inputs": {"noise": [[0.5]], "label": [[7]]}},
        {"instances": [[1, 2]]},
    ],
)
def test_a_request_that_mlflows_command_read_as_a_table_is_a_request_again(request_: Any) -> None:
    table = pd.read_json(io.StringIO(json.dumps(request_)))

    assert document(scoring.document_in_frame(table)) == request_


@pytest.mark.parametrize("table", [{"a": [1]}, {"inputs": [1], "b": [2]}, {"dataframe_records": [1]}])
def test_a_table_that_mlflows_command_read_stays_a_table(table: Any) -> None:
    assert "dataframe_split" in document(scoring.document_in_frame(pd.DataFrame(table)))


@pytest.mark.parametrize("name", ["inputs", "instances", "dataframe_records", "dataframe_split", "input", "prompt"])
def test_a_dataframe_is_a_table_whatever_its_only_column_is_called(name: str) -> None:
    sent = document(pd.DataFrame({name: ["good", "bad"]}))

    assert sent == {"dataframe_split": {"columns": [name], "data": [["good"], ["bad"]]}}


@pytest.mark.parametrize(
    ("index", "sent"),
    [
        ([7, 3], [7, 3]),
        (["b", "a"], ["b", "a"]),
        ([0.5, None], [0.5, None]),
        (pd.to_datetime(["2026-01-02", "2026-01-03"]), ["2026-01-02T00:00:00", "2026-01-03T00:00:00"]),
        (pd.RangeIndex(1, 3), [1, 2]),
    ],
)
def test_a_dataframe_and_a_series_keep_their_index(index: Any, sent: list[Any]) -> None:
    table = pd.DataFrame({"a": [1, 2]}, index=index)

    for inputs in (table, table["a"]):
        assert document(inputs) == {"dataframe_split": {"index": sent, "columns": ["a"], "data": [[1], [2]]}}


@pytest.mark.parametrize("several", [{"index": [[1, 1], ["a", "b"]]}, {"columns": [["x", "x"], ["a", "b"]]}])
def test_a_dataframe_with_several_levels_is_refused(several: Any) -> None:
    with pytest.raises(InvalidOption, match="multi-level"):
        document(pd.DataFrame(np.zeros((2, 2)), **several))


@pytest.mark.parametrize("names", [["input", "mask"], ["input"], ["prompt"], ["messages"], ["inputs", "mask"]])
@pytest.mark.parametrize("values", [np.ones((1, 2)), [[1.0, 1.0]]], ids=["arrays", "lists"])
def test_a_dict_of_arrays_is_named_tensors_whatever_their_names(names: list[str], values: Any) -> None:
    assert document(dict.fromkeys(names, values)) == {"inputs": {name: [[1.0, 1.0]] for name in names}}


@pytest.mark.parametrize("name", ["prompt", "input", "messages"])
def test_lists_of_texts_are_columns_whatever_their_names(name: str) -> None:
    columns = {name: ["a", "b"], "lang": ["x", "y"]}
    assert document(columns) == {"inputs": columns}
    assert document({name: ["a", "b"]}) == {"inputs": {name: ["a", "b"]}}


@pytest.mark.parametrize(
    "request_",
    [
        {"messages": [{"role": "user", "content": "hi"}], "temperature": np.float64(0.5), "stop": ["."]},
        {"prompt": "hi"},
        {"prompt": ["hi", "there"], "n": 2},
        {"input": [{"role": "user", "content": "hi"}], "context": {"user_id": "1"}},
        {"instances": [[1]], "signature_name": "serving_default"},
        {"dataframe_split": {"columns": ["a"], "data": [[1]]}, "client_request_id": "1"},
    ],
)
def test_texts_and_messages_are_a_chat_request_and_mlflows_keys_are_kept(request_: Any) -> None:
    assert document(request_) == request_


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON_VALUES)
def test_the_json_is_the_same_in_chunks(value: Any) -> None:
    assert json.loads(b"".join(scoring.JsonStream(value))) == value


@pytest.mark.parametrize(
    "large",
    [
        np.arange(60_000).reshape(20, 3, 1000),
        np.arange(90_000).reshape(3, 30_000),
        [{"a": number, "b": "x" * 100} for number in range(9_000)],
        {"one": list(range(100_000)), "two": [["y" * 20_000] * 30]},
        ["z" * 600_000, None],
    ],
)
def test_large_inputs_are_sent_completely_in_chunks(server: ToldServer, large: Any) -> None:
    server.answers = [(503, b""), (200, b"1")]

    scoring.score(server.url, large)

    meant = large.tolist() if isinstance(large, np.ndarray) else large
    for _, headers, body in server.asked:
        assert headers["transfer-encoding"] == "chunked"
        assert next(iter(json.loads(body).values())) == meant


def test_a_large_table_is_sent_in_chunks_with_null_for_missing_values(server: ToldServer) -> None:
    table = pd.DataFrame({"a": range(50_000), "b": [0.5, None] * 25_000})

    scoring.score(server.url, table)

    assert server.asked[0][1]["transfer-encoding"] == "chunked"
    sent = json.loads(server.asked[0][2], parse_constant=pytest.fail)["dataframe_split"]["data"]
    assert (len(sent), sent[:2], sent[-1]) == (50_000, [[0, 0.5], [1, None]], [49_999, None])


def test_an_invalid_value_late_in_a_large_input_is_refused_too(server: ToldServer) -> None:
    with pytest.raises(InvalidOption, match="infinite"):
        scoring.score(server.url, [*range(100_000), float("inf")])


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [50, pytest.param(300, marks=pytest.mark.exhaustive)])
def test_a_large_table_is_sent_without_being_in_memory_twice(server: ToldServer, megabytes: int) -> None:
    script = Path(__file__).parent / "support" / "large_prediction.py"
    server.keeps_bodies = False

    growth = int(subprocess.check_output([sys.executable, script, server.url, str(megabytes * 1000)]))

    assert server.received_bytes > megabytes * 10**6
    assert growth < 20


@pytest.mark.parametrize("inputs", [[float("inf")], pd.DataFrame({"a": [-np.inf]}), object(), [object()]])
def test_values_without_a_json_form_are_refused(inputs: Any) -> None:
    with pytest.raises(InvalidOption):
        text_of(inputs)


def test_the_response_is_parsed(server: ToldServer) -> None:
    assert scoring.score(server.url, [[1]], api_key="s3cret") == {"predictions": [1]}

    path, headers, body = server.asked[0]
    assert path == "/churn/invocations"
    assert headers["content-type"] == "application/json"
    assert headers["authorization"] == "Bearer s3cret"
    assert json.loads(body) == {"inputs": [[1]]}


def test_without_a_key_no_header_is_sent(server: ToldServer) -> None:
    scoring.score(server.url, [[1]])

    assert "authorization" not in server.asked[0][1]


def test_an_image_is_sent_as_in_the_walk_through(server: ToldServer, tmp_path: Path) -> None:
    (tmp_path / "sea.png").write_bytes(b"\x89PNG")

    for image in (tmp_path / "sea.png", str(tmp_path / "sea.png"), b"\x89PNG"):
        scoring.score(f"{server.url}/", image)

    for path, headers, body in server.asked:
        assert path == "/churn/predict_image"
        assert headers["content-type"].startswith("multipart/form-data")
        assert b'name="image"; filename="image"' in body
        assert b"\x89PNG" in body


def test_a_missing_image_file_is_named(server: ToldServer) -> None:
    with pytest.raises(InvalidOption, match=r"nowhere\.png"):
        scoring.score(server.url, "nowhere.png")


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_temporary_load_balancer_error_is_retried(server: ToldServer, status: int) -> None:
    server.answers = [(status, b""), (status, b""), (200, b"[1]")]

    assert scoring.score(server.url, [[1]]) == [1]


@pytest.mark.parametrize("status", [502, 503, 504])
def test_what_may_have_been_computed_for_a_while_is_not_computed_again(
    server: ToldServer, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_LATE_SECONDS", 0.0)
    server.answers = [(status, b"late")]

    with pytest.raises(PredictionFailed, match=f"{status}: late") as failed:
        scoring.score(server.url, [[1]])
    assert (failed.value.status, failed.value.is_late, len(server.asked)) == (status, True, 1)


@pytest.mark.parametrize(
    ("limit", "seconds"), [(None, 60), ("60", 70), ("59", 60), ("300", 310), ("1e9", 4000), ("never", 60), ("nan", 60)]
)
def test_the_idle_timeout_of_the_load_balancer_follows_the_services_limit(limit: str | None, seconds: int) -> None:
    environment = {"environment.REQUEST_TIMEOUT_SECONDS": limit} if limit else {}

    assert parse_config(environment).idle_timeout_seconds == seconds


class Known:
    """A deployment that AWS shows, and how often it was read."""

    def __init__(self, url: str) -> None:
        self.callee = Callee(url, "old")
        self.reads = 0
        self.seconds = 0.0
        self.callees = Callees(clock=lambda: self.seconds)

    def read(self) -> Callee:
        self.reads += 1
        return self.callee

    def predict(self) -> Any:
        return self.callees.predict(("default", "churn"), self.read, [[1]], 10.0)


def test_what_callers_need_is_read_once_a_minute(server: ToldServer) -> None:
    known = Known(server.url)
    server.answers = [(200, b"[1]")]

    for seconds, reads in ((0.0, 1), (59.0, 1), (61.0, 2), (100.0, 2)):
        known.seconds = seconds
        assert known.predict() == [1]
        assert known.reads == reads


@pytest.mark.parametrize(
    ("status", "is_read_again"), [(401, True), (404, True), (500, True), (400, False), (413, False)]
)
def test_a_failure_that_newer_facts_may_explain_reads_them_again(
    server: ToldServer, status: int, is_read_again: bool
) -> None:
    known = Known(server.url)
    server.answers = [(200, b"[1]"), (status, b""), (200, b"[2]")]
    known.predict()
    known.callee = replace(known.callee, api_key="new")

    if is_read_again:
        assert known.predict() == [2]
        assert [headers["authorization"] for _, headers, _ in server.asked][1:] == ["Bearer old", "Bearer new"]
    else:
        with pytest.raises(PredictionFailed, match=str(status)):
            known.predict()
    assert known.reads == 1 + is_read_again


def test_a_failure_that_is_read_again_without_news_is_reported_once(server: ToldServer) -> None:
    known = Known(server.url)
    server.answers = [(200, b"[1]"), (401, b"no")]
    known.predict()

    with pytest.raises(PredictionFailed, match="401: no"):
        known.predict()
    assert (known.reads, len(server.asked)) == (2, 2)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_calls_to_a_custom_service_are_never_retried(server: ToldServer, status: int) -> None:
    server.answers = [(200, OWN_DOCS), (status, b"")]

    with pytest.raises(PredictionFailed, match=str(status)):
        scoring.score(server.url, {"number": 1}, is_custom_service=True)
    assert [path for path, _, _ in server.asked] == ["/churn/docs.json", "/churn/draw"]


def test_a_lasting_error_is_reported(server: ToldServer) -> None:
    server.answers = [(503, b"no targets")]

    with pytest.raises(PredictionFailed, match="503: no targets"):
        scoring.score(server.url, [[1]])
    assert len(server.asked) == 4


@pytest.mark.parametrize(("status", "hint"), [(400, None), (401, "API key"), (413, "MAX_BODY_MB"), (500, None)])
def test_a_refusal_is_not_retried_and_is_shortened(server: ToldServer, status: int, hint: str | None) -> None:
    server.answers = [(status, b"x" * 9999)]

    with pytest.raises(PredictionFailed, match=str(status)) as failed:
        scoring.score(server.url, [[1]])

    assert len(server.asked) == 1
    assert failed.value.message.count("x") < 520
    assert (hint or "") in (failed.value.hint or "")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("inputs", [[[1]], b"image", {"number": 1}], ids=["table", "image", "custom service"])
def test_inputs_and_key_are_not_sent_to_where_a_response_redirects(
    server: ToldServer, other_server: ToldServer, inputs: Any, status: int
) -> None:
    server.redirects_to = f"{other_server.url.replace('//', '//user:pass@')}/elsewhere?token=t0ken"
    server.answers = [(status, b"")]

    with pytest.raises(PredictionFailed, match=f"redirects to '{other_server.url}/elsewhere'") as failed:
        scoring.score(server.url, inputs, api_key="secret", is_custom_service=isinstance(inputs, dict))

    assert other_server.asked == []
    assert len(server.asked) == 1
    assert "the deployment's own URL" in (failed.value.hint or "")


def test_a_redirect_to_no_url_is_a_failure(server: ToldServer) -> None:
    clock = Clock()
    server.redirects_to, server.answers = "http://[x/", [(302, b"")]

    with pytest.raises(PredictionFailed, match="Invalid IPv6 URL"):
        scoring.score(server.url, [[1]])
    with pytest.raises(RolloutTimeout, match="Invalid IPv6 URL"):
        scoring.wait_until_ready(server.url, timeout_seconds=1, clock=clock, sleep=clock.sleep)


def test_a_page_to_log_in_does_not_make_the_model_ready(server: ToldServer) -> None:
    clock = Clock()
    server.redirects_to, server.answers = "/login", [(302, b"")]

    with pytest.raises(RolloutTimeout, match=rf"302 \(redirects to {server.url.removesuffix('/churn')}/login\)"):
        scoring.wait_until_ready(server.url, timeout_seconds=1, clock=clock, sleep=clock.sleep)


def test_the_error_for_a_slow_response_says_what_to_set(server: ToldServer) -> None:
    server.takes_seconds = 20

    with pytest.raises(PredictionTimeout, match=r"within 0\.2 s") as failed:
        scoring.score(server.url, [[1]], timeout_seconds=0.2)
    server.go_on.set()

    assert failed.value.error_code == "DEADLINE_EXCEEDED"
    assert "MLFLOW_DEPLOYMENT_PREDICT_TIMEOUT" in (failed.value.hint or "")


@pytest.mark.parametrize(
    ("inputs", "sent_to", "sent"),
    [
        ({"number": 7}, "draw", {"number": 7}),
        (pd.DataFrame([{"number": 7}]), "draw", {"number": 7}),
        ({"a": np.array([1, 2]), "b": "x"}, "add", {"a": [1, 2], "b": "x"}),
        ({"a": [1]}, "add", {"a": [1]}),
    ],
)
def test_the_route_of_a_custom_service_is_chosen_by_its_input_names(
    server: ToldServer, inputs: Any, sent_to: str, sent: Any
) -> None:
    server.answers = [(200, OWN_DOCS), (200, b'{"drawn": 1}')]

    assert scoring.score(server.url, inputs, is_custom_service=True) == {"drawn": 1}
    assert (server.asked[1][0], json.loads(server.asked[1][2])) == (f"/churn/{sent_to}", sent)


@pytest.mark.parametrize("inputs", [{"c": 1}, {}, {"a": 1, "number": 2}, [1], pd.DataFrame({"number": [1, 2]})])
def test_inputs_that_no_api_accepts_are_refused_with_the_list_of_apis(server: ToldServer, inputs: Any) -> None:
    server.answers = [(200, OWN_DOCS)]

    with pytest.raises(InvalidOption, match=r"(?s)None of the service's APIs.*/draw \(number\), /add \(a, b\)"):
        scoring.score(server.url, inputs, is_custom_service=True)


def test_the_only_input_of_the_only_api_needs_no_name(server: ToldServer) -> None:
    server.answers = [(200, json.dumps({"paths": {"/draw": own_api("number")}}).encode()), (200, b"1")]

    scoring.score(server.url, [7], is_custom_service=True)

    assert json.loads(server.asked[1][2]) == {"number": [7]}


def test_a_custom_service_with_mlflows_protocol_is_called_with_it(server: ToldServer) -> None:
    server.answers = [(200, json.dumps({"paths": {"/invocations": {}, "/draw": own_api("number")}}).encode())] * 2

    scoring.score(server.url, {"number": 7}, is_custom_service=True)

    assert server.asked[1][0] == "/churn/invocations"


def test_a_binary_response_of_a_custom_service_is_base64(server: ToldServer) -> None:
    server.answers = [(200, OWN_DOCS), (200, b"\x89PNG")]

    assert scoring.score(server.url, {"number": 7}, is_custom_service=True) == "iVBORw=="


def test_a_response_that_is_not_json_is_reported(server: ToldServer) -> None:
    server.answers = [(200, b"<html>welcome</html>")]

    with pytest.raises(PredictionFailed, match="welcome"):
        scoring.score(server.url, [[1]])


def test_a_refused_connection_is_reported() -> None:
    with pytest.raises(PredictionFailed, match="did not respond"):
        scoring.score("http://127.0.0.1:9", [[1]])


def test_waiting_ends_once_the_model_is_ready(server: ToldServer) -> None:
    clock = Clock()
    server.answers = [(503, b"no targets"), (503, b"loading"), (200, b"\n")]

    scoring.wait_until_ready(server.url, timeout_seconds=60, clock=clock, sleep=clock.sleep)

    assert [path for path, _, _ in server.asked] == ["/churn/readyz"] * 3
    assert clock.now == 4


@pytest.fixture
def tls_server(server: ToldServer, tmp_path: Path) -> ToldServer:
    """Has a certificate for a different name, because none covers a load balancer's default name."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=churn.example.com",
    ]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.scheme = "https"
    return server


def test_readiness_is_checked_at_the_load_balancers_default_name(tls_server: ToldServer) -> None:
    clock = Clock()
    tls_server.answers = [(200, b"\n")]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scoring.wait_until_ready(tls_server.url, timeout_seconds=0, clock=clock, sleep=clock.sleep)

    assert [path for path, _, _ in tls_server.asked] == ["/churn/readyz"]


def test_readiness_of_new_tasks_is_checked_over_https_without_a_key(tls_server: ToldServer) -> None:
    tls_server.answers = [(200, b"\n")]

    said = scoring.test_service(tls_server.url, {"X-Test": "value"}, api_key="secret", version="2")

    ((path, headers, _),) = tls_server.asked
    assert (path, headers["x-test"], headers.get("authorization")) == ("/churn/readyz", "value", None)
    assert "they are ready" in said


def test_rows_and_key_are_sent_only_to_a_server_whose_certificate_matches(tls_server: ToldServer) -> None:
    with pytest.raises(PredictionFailed, match="has no trusted certificate") as told:
        scoring.score(tls_server.url, [[1]], api_key="secret")

    assert "host=" in told.value.format_message()
    assert tls_server.asked == []


def test_the_timeout_error_shows_the_last_response(server: ToldServer) -> None:
    clock = Clock()
    server.answers = [(503, b"no targets")]

    with pytest.raises(RolloutTimeout, match="within 10 s; last response: 503 no targets"):
        scoring.wait_until_ready(server.url, timeout_seconds=10, clock=clock, sleep=clock.sleep)
    assert clock.now <= 10

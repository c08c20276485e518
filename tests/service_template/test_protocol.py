"""MLflow's scoring protocol, case by case, against the running service: status, type and body.

Source: MLflow 3.17.2's own server, but for its four defects, which are marked below.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import requests
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from support.serving_process import BENTOML_SERVE, ENTRY_POINT, Running, build, serve

pytestmark = pytest.mark.slow

# Answers a·factor; 0 becomes NaN, a below 0 breaks the model, and with `stream` each number is a separate chunk.
MODEL = """
import mlflow

class Scaled(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        if (model_input["a"] < 0).any():
            raise RuntimeError("confidential: " + str(model_input["a"].min()))
        return (model_input["a"] * (params or {}).get("factor", 1.0)).where(model_input["a"] != 0).tolist()

mlflow.models.set_model(Scaled())
"""
TALKER = """
import mlflow

class Talker(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return {"said": model_input["prompt"]}

    def predict_stream(self, context, model_input, params=None):
        for word in model_input["prompt"].split():
            if word == "stop":
                raise RuntimeError("confidential")
            yield {"word": word}

mlflow.models.set_model(Talker())
"""
JSON = "application/json"


@pytest.fixture(scope="module", params=[ENTRY_POINT, BENTOML_SERVE], ids=["in one process", "bentoml serve"])
def scaled(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    signature = ModelSignature(
        inputs=Schema([ColSpec("double", "a")]), params=ParamSchema([ParamSpec("factor", "double", 1.0)])
    )
    with serve_code(MODEL, tmp_path_factory.mktemp("scaled"), request.param, signature) as running:
        yield running


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serve_code(TALKER, tmp_path_factory.mktemp("talker"), streamable=True) as running:
        yield running


def serve_code(
    code: str, folder: Path, entry_point: Sequence[str] = ENTRY_POINT, signature: Any = None, **options: Any
) -> Any:
    """A service for a model logged as code, as its class defines."""
    (folder / "model.py").write_text(code)
    example = pd.DataFrame({"a": [1.0]}) if signature else None
    mlflow.pyfunc.save_model(
        folder / "model",
        python_model=str(folder / "model.py"),
        signature=signature,
        input_example=example,
        pip_requirements=["mlflow", "pandas"],
        **options,
    )
    source = build(folder / "model", folder)
    limits = {"REQUEST_TIMEOUT_SECONDS": "5", "ACCEPT_PARQUET": "true"}
    return serve(source, folder / "model", folder, entry_point=entry_point, **limits)


def post(running: Running, body: object, content_type: str | None = JSON, **headers: str) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Content-Type": content_type} if content_type else {}
    return requests.post(f"{running.url}/invocations", data=data, headers={**given, **headers}, timeout=30)


def parquet(table: pd.DataFrame) -> bytes:
    file = io.BytesIO()
    table.to_parquet(file)
    return file.getvalue()


SPLIT = {"columns": ["a"], "data": [[2.0], [3.0]]}
RECORDS = [{"a": 2.0}, {"a": 3.0}]


@pytest.mark.parametrize(
    ("body", "content_type", "predictions"),
    [
        ({"dataframe_split": SPLIT}, JSON, [2.0, 3.0]),
        ({"dataframe_records": RECORDS}, JSON, [2.0, 3.0]),
        ({"instances": RECORDS}, JSON, [2.0, 3.0]),
        ({"inputs": {"a": [2.0, 3.0]}}, JSON, [2.0, 3.0]),
        ({"dataframe_split": SPLIT, "params": {"factor": 10.0}}, JSON, [20.0, 30.0]),
        ({"dataframe_split": SPLIT, "params": {"unknown": 1}}, JSON, [2.0, 3.0]),
        ({"dataframe_split": SPLIT, "something": "else"}, JSON, [2.0, 3.0]),
        ({"dataframe_records": [{"a": 2.0, "extra": "x"}]}, JSON, [2.0]),
        ({"dataframe_split": SPLIT}, "application/json; charset=utf-8", [2.0, 3.0]),
        (
            {"dataframe_split": SPLIT},
            "Application/JSON",
            [2.0, 3.0],
        ),  # MLflow's server: 415, though types are case-insensitive
        (b"a\n2.0\n3.0\n", "text/csv", [2.0, 3.0]),
        (parquet(pd.DataFrame(RECORDS)), "application/vnd.apache.parquet", [2.0, 3.0]),
        ({"dataframe_records": [{"a": 0.0}, {"a": 1.0}]}, JSON, [None, 1.0]),  # MLflow's server: NaN, which is not JSON
    ],
)
def test_valid_input_is_answered(scaled: Running, body: object, content_type: str, predictions: object) -> None:
    response = post(scaled, body, content_type)

    assert (response.status_code, response.headers["content-type"]) == (200, JSON)
    assert json.loads(response.text, parse_constant=pytest.fail) == {"predictions": predictions}


NOT_JSON = "Invalid input. Ensure that input is a valid JSON formatted string."
ONE_OF_FOUR = "The input must be a JSON dictionary with exactly one of the input fields"


@pytest.mark.parametrize(
    ("body", "content_type", "code", "said"),
    [
        (b"", JSON, "BAD_REQUEST", NOT_JSON),
        (b"{", JSON, "BAD_REQUEST", NOT_JSON),
        (b"\xff\xfe", JSON, "BAD_REQUEST", ""),
        ([1], JSON, "BAD_REQUEST", ONE_OF_FOUR),
        (1, JSON, "BAD_REQUEST", ONE_OF_FOUR),
        ({}, JSON, "BAD_REQUEST", ONE_OF_FOUR),
        ({"dataframe_split": SPLIT, "inputs": {}}, JSON, "BAD_REQUEST", ONE_OF_FOUR),
        ({"dataframe_split": []}, JSON, "BAD_REQUEST", "Dataframe split format must be a dictionary. Got list."),
        (
            {"dataframe_records": {}},
            JSON,
            "BAD_REQUEST",
            "Dataframe records format must be a list of records. Got dictionary.",
        ),
        (
            {"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}},
            JSON,
            "BAD_REQUEST",
            "Provided dataframe_split field is not a valid dataframe representation",
        ),
        (
            {"dataframe_records": [{"a": "confidential"}]},
            JSON,
            "BAD_REQUEST",
            "Data is not compatible with model signature. Failed to convert column a",
        ),
        ({"dataframe_records": [{"b": "confidential"}]}, JSON, "INVALID_PARAMETER_VALUE", "Failed to enforce schema"),
        (
            {"dataframe_split": SPLIT, "params": {"factor": "confidential"}},
            JSON,
            "INVALID_PARAMETER_VALUE",
            "Invalid parameters found",
        ),
        (b'a\n"confidential', "text/csv", "BAD_REQUEST", "Failed to parse input as a Pandas DataFrame"),
        (b"confidential", "application/vnd.apache.parquet", "BAD_REQUEST", "Failed to parse input as a Pandas"),
    ],
)
def test_invalid_input_is_400_and_is_not_repeated(
    scaled: Running, body: object, content_type: str, code: str, said: str
) -> None:
    response = post(scaled, body, content_type)
    error = response.json()

    assert (response.status_code, error["error_code"]) == (400, code), error
    assert said in error["message"]
    assert set(error) == {"error_code", "message", "request_id"}  # MLflow's server: stack_trace
    assert "confidential" not in response.text  # MLflow's server: repeats the data and the schema
    assert "with schema" not in response.text


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/json; version=2", "application/json; charset=latin-1", "multipart/x"]
)
def test_other_content_types_are_415(scaled: Running, content_type: str) -> None:
    response = post(scaled, {"dataframe_split": SPLIT}, content_type)

    assert response.status_code == 415
    assert {"error_code", "message"} <= set(response.json())  # MLflow's server: a text


@pytest.mark.parametrize("content_type", [None, ""])
def test_without_a_content_type_it_is_415(scaled: Running, content_type: str | None) -> None:
    assert post(scaled, {"dataframe_split": SPLIT}, content_type).status_code == 415  # MLflow's server: 500


def test_a_failing_model_is_500_without_details(scaled: Running) -> None:
    response = post(scaled, {"dataframe_records": [{"a": -4711.0}]}, **{"X-Request-Id": "the-one-that-failed"})

    assert response.status_code == 500  # MLflow's server: 400
    assert response.json()["request_id"] == response.headers["x-request-id"] == "the-one-that-failed"
    assert "confidential" not in response.text
    assert "request the-one-that-failed" in scaled.log.read_text()


@pytest.mark.parametrize("path", ["/ping", "/health"])
def test_health_is_a_line_break(scaled: Running, path: str) -> None:
    response = requests.get(scaled.url + path, timeout=10)

    assert (response.status_code, response.text, response.headers["content-type"]) == (200, "\n", JSON)


def test_the_version_is_mlflows(scaled: Running) -> None:
    response = requests.get(f"{scaled.url}/version", timeout=10)

    assert (response.status_code, response.text) == (200, mlflow.__version__)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/invocations", 405), ("GET", "/nothing", 404)])
def test_other_requests_get_an_error_in_json(scaled: Running, method: str, path: str, status: int) -> None:
    response = requests.request(method, scaled.url + path, timeout=10)

    assert response.status_code == status
    assert response.json()["message"]


@pytest.mark.parametrize("given", ["", "a b", "x" * 200, "ä"])
def test_an_unsafe_request_id_is_replaced(scaled: Running, given: str) -> None:
    response = requests.get(f"{scaled.url}/ping", headers={"X-Request-Id": given.encode()}, timeout=10)

    assert len(response.headers["x-request-id"]) == 32


def test_the_load_balancers_trace_id_is_the_request_id(scaled: Running) -> None:
    headers = {"X-Amzn-Trace-Id": "Self=1-67891234-12456789abcdef012345678;Root=1-67891233-abcdef012345678912345678"}

    response = requests.get(f"{scaled.url}/ping", headers=headers, timeout=10)

    assert response.headers["x-request-id"] == "1-67891233-abcdef012345678912345678"


def test_the_signature_and_the_example_are_in_the_docs(scaled: Running) -> None:
    document = requests.get(f"{scaled.url}/docs.json", timeout=10).json()
    body = document["paths"]["/invocations"]["post"]["requestBody"]["content"][JSON]
    spellings = {one["title"]: one["properties"] for one in body["schema"]["oneOf"]}

    assert set(spellings) == {"dataframe_split", "dataframe_records", "instances", "inputs"}
    row = spellings["dataframe_records"]["dataframe_records"]["items"]
    assert row["properties"] == {"a": {"type": "number", "format": "double"}}
    assert row["required"] == ["a"]
    assert spellings["inputs"]["params"]["properties"]["factor"]["default"] == 1.0
    assert post(scaled, body["example"]).status_code == 200


def test_a_prompt_is_answered_unwrapped(talker: Running) -> None:
    assert post(talker, {"prompt": "hello there"}).json() == {"said": "hello there"}


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("application/x-ndjson", '{"word": "hello"}\n{"word": "there"}\n'),
        ("text/event-stream", 'data: {"word": "hello"}\n\ndata: {"word": "there"}\n\ndata: [DONE]\n\n'),
    ],
)
def test_a_model_that_can_stream_answers_in_chunks(talker: Running, form: str, text: str) -> None:
    response = post(talker, {"prompt": "hello there"}, Accept=form)

    assert response.headers["content-type"].startswith(form)
    assert response.text == text


def test_a_failure_after_the_first_chunk_is_the_last_chunk(talker: Running) -> None:
    lines = post(talker, {"prompt": "hello stop there"}, Accept="application/x-ndjson").text.splitlines()

    assert json.loads(lines[0]) == {"word": "hello"}
    assert json.loads(lines[1])["error_code"] == "INTERNAL_ERROR"
    assert len(lines) == 2
    assert "confidential" not in lines[1]


def test_a_failure_before_the_first_chunk_has_its_own_status(talker: Running) -> None:
    assert post(talker, {"prompt": "stop"}, Accept="text/event-stream").status_code == 500
    assert post(talker, b"{", Accept="text/event-stream").status_code == 400


def test_a_model_that_cannot_stream_responds_with_an_error(scaled: Running) -> None:
    assert post(scaled, {"dataframe_split": SPLIT}, Accept="text/event-stream").status_code == 406
    assert post(scaled, {"dataframe_split": SPLIT}, Accept="text/event-stream, application/json").status_code == 200

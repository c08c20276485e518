"""Agents, chat models and models with type hints: the document shows what they accept, and no error shows data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import mlflow
import pytest
import yaml

from fargate_service.http.openapi_document import make_openapi_document
from fargate_service.settings import ServiceDescription
from mlflow_fargate.scoring import score_stream
from support.serving_process import Running, build, serve

pytestmark = pytest.mark.slow

HINTED = """
import mlflow, pydantic

class Customer(pydantic.BaseModel):
    age: int
    iban: str | None = None

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[Customer], params=None) -> list[int]:
        return [one.age for one in model_input]

mlflow.models.set_model(Model())
"""
CHAT = """
import mlflow
from mlflow.types.llm import ChatChoice, ChatCompletionResponse, ChatMessage

class Model(mlflow.pyfunc.ChatModel):
    def predict(self, context, messages, params):
        said = ChatMessage(role="assistant", content=messages[-1].content)
        return ChatCompletionResponse(choices=[ChatChoice(index=0, message=said, finish_reason="stop")])

mlflow.models.set_model(Model())
"""
RESPONSES = """
import mlflow
from mlflow.types.responses import ResponsesAgentResponse, ResponsesAgentStreamEvent

class Model(mlflow.pyfunc.ResponsesAgent):
    def predict(self, request):
        return ResponsesAgentResponse(output=[self.create_text_output_item(request.input[-1].content, "1")])

    def predict_stream(self, request):
        for word in request.input[-1].content.split():
            yield ResponsesAgentStreamEvent(**self.create_text_delta(word, "1"))

mlflow.models.set_model(Model())
"""
MESSAGES = [{"role": "user", "content": "hello there"}]


def save(code: str, folder: Path) -> Path:
    (folder / "model.py").write_text(code)
    mlflow.pyfunc.save_model(folder / "model", python_model=str(folder / "model.py"), pip_requirements=["mlflow"])
    return folder / "model"


def documented(model: Path) -> dict[str, Any]:
    metadata = yaml.safe_load((model / "MLmodel").read_text())
    description = ServiceDescription("pyfunc", "python_function", None, "models:/m/1", "m", "1", None)
    document = make_openapi_document(description, needs_key=False, metadata=metadata, max_body_bytes=1)
    body: dict[str, Any] = document["paths"]["/invocations"]["post"]["requestBody"]
    return dict(body["content"]["application/json"]["schema"])


@pytest.mark.parametrize(
    ("code", "accepted", "refused"),
    [
        (
            HINTED,
            [{"inputs": [{"age": 4}]}],
            [{"instances": [{"age": 4}]}, {"inputs": [{"iban": "DE1"}]}, {"inputs": 1}],
        ),
        (
            CHAT,
            [{"messages": MESSAGES, "temperature": 0.5, "stream": True}],
            [{"inputs": MESSAGES}, {"messages": [{}]}],
        ),
        (RESPONSES, [{"input": MESSAGES, "stream": True}], [{"inputs": MESSAGES}, {"input": "text"}]),
    ],
    ids=["type hints", "ChatModel", "ResponsesAgent"],
)
def test_the_document_has_the_bodies_that_the_model_accepts(
    code: str, accepted: list[Any], refused: list[Any], tmp_path: Path
) -> None:
    schema = documented(save(code, tmp_path))

    for body in accepted:
        jsonschema.validate(body, schema)
    for body in refused:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body, schema)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("agent")
    with serve(build(save(RESPONSES, folder), folder), folder / "model", folder) as running:
        yield running


def test_an_agent_answers_its_documents_example_and_streams_its_events(agent: Running) -> None:
    invocations = f"{agent.url}/invocations"
    example = agent.session.get(f"{agent.url}/docs.json").json()["paths"]["/invocations"]["post"]["requestBody"]
    answer = agent.session.post(invocations, json=example["content"]["application/json"]["example"])
    chunks = list(score_stream(agent.url, {"input": MESSAGES}))
    wrong = agent.session.post(invocations, json={"input": [{"role": "user", "content": {"iban": "DE00 0000"}}]})

    assert answer.status_code == 200
    assert [(chunk["type"], chunk["delta"]) for chunk in chunks] == [
        ("response.output_text.delta", "hello"),
        ("response.output_text.delta", "there"),
    ]
    assert wrong.status_code >= 400
    assert "DE00" not in wrong.text


def test_a_chat_model_without_a_stream_says_so(tmp_path: Path) -> None:
    with serve(build(save(CHAT, tmp_path), tmp_path), tmp_path / "model", tmp_path) as running:
        plain = running.session.post(f"{running.url}/invocations", json={"messages": MESSAGES})
        streamed = running.session.post(f"{running.url}/invocations", json={"messages": MESSAGES, "stream": True})

    assert plain.json()["choices"][0]["message"]["content"] == "hello there"
    assert (streamed.status_code, "does not stream" in streamed.text) == (406, True)

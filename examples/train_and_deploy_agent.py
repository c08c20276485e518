"""Logs an agent, deploys it and prints its answer as it arrives: python -m examples.train_and_deploy_agent

Needs neither a network nor a language model: the agent answers with the length of each word. The variables are those of
examples/train_and_deploy.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import mlflow
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse, ResponsesAgentStreamEvent

import mlflow_fargate

MODEL = "counting-agent"


class CountingAgent(mlflow.pyfunc.ResponsesAgent):  # type: ignore[misc]  # mlflow ships no types
    """Answers with the length of each word, in one piece or word by word."""

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        lengths = " ".join(event.delta for event in self.predict_stream(request))
        return ResponsesAgentResponse(output=[self.create_text_output_item(lengths, "1")])

    def predict_stream(self, request: ResponsesAgentRequest) -> Iterator[ResponsesAgentStreamEvent]:
        for word in request.input[-1].content.split():
            yield ResponsesAgentStreamEvent(**self.create_text_delta(str(len(word)), "1"))


if __name__ == "__main__":
    mlflow.set_experiment(MODEL)
    logged = mlflow.pyfunc.log_model(name="model", python_model=CountingAgent(), registered_model_name=MODEL)
    deployment = mlflow_fargate.deploy(logged, name=MODEL, desired_count=1)
    mlflow_fargate.promote(MODEL, deployment.version)
    print(deployment.url)
    question = {"input": [{"role": "user", "content": "How long is this"}]}
    print([chunk["delta"] for chunk in deployment.predict_stream(question)])

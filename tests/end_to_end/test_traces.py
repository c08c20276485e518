"""The recipe for traces: those of a deployed model arrive at MLflow's server, also the last before a task stops."""

from __future__ import annotations

import time
from importlib.metadata import version

import mlflow
import pytest
import requests

from support.deployed_services import deployed

pytestmark = [pytest.mark.end_to_end, pytest.mark.exhaustive, pytest.mark.timeout(900)]

CALLS = 50
MODEL = """
import mlflow

class Traced(mlflow.pyfunc.PythonModel):
    @mlflow.trace(name="predict")
    def predict(self, context, model_input, params=None):
        return [1] * len(model_input)

mlflow.models.set_model(Traced())
"""
EXPORTER = f"opentelemetry-exporter-otlp-proto-http=={version('opentelemetry-sdk')}"


def variables_of(way: str, experiment: str, server: str) -> dict[str, str]:
    """The options of the recipe."""
    if way == "MLflow":
        return {"environment.MLFLOW_TRACKING_URI": server, "environment.MLFLOW_EXPERIMENT_ID": experiment}
    return {
        "environment.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{server}/v1/traces",
        "environment.OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "environment.OTEL_EXPORTER_OTLP_TRACES_HEADERS": f"x-mlflow-experiment-id={experiment}",
        "requirements": EXPORTER,
    }


@pytest.mark.parametrize("way", ["MLflow", "OpenTelemetry"])
def test_every_trace_arrives_although_the_task_is_stopped_at_once(
    local_stack: dict[str, str], tmp_path_factory: pytest.TempPathFactory, way: str
) -> None:
    code = tmp_path_factory.mktemp("traced") / "model.py"
    code.write_text(MODEL)
    experiment = mlflow.create_experiment(f"traces of {way}")
    with mlflow.start_run(experiment_id=experiment):
        logged = mlflow.pyfunc.log_model(name="model", python_model=str(code), pip_requirements=["pandas"])
    options = variables_of(way, experiment, local_stack["MLFLOW_TRACKING_URI"])

    with deployed("traced", logged.model_uri, options) as url, requests.Session() as session:
        for _ in range(CALLS):
            answer = session.post(f"{url}/invocations", json={"dataframe_records": [{"a": 1}]}, timeout=60)
            assert answer.status_code == 200, answer.text

    deadline = time.monotonic() + 120
    while len(traces := mlflow.search_traces(locations=[experiment], return_type="list")) < CALLS:
        assert time.monotonic() < deadline, len(traces)
        time.sleep(1)
    assert len(traces) == CALLS

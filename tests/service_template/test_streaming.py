"""Streamed responses: when chunks arrive, how a stream ends, and that a caller who leaves ends the model's work."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest

from mlflow_fargate.errors import PredictionFailed
from mlflow_fargate.local.load_balancer.rules import RoutingRule, WeightedTargets
from mlflow_fargate.local.load_balancer.server import LoadBalancer
from mlflow_fargate.scoring import score_stream
from support.serving_process import KEY, Running, build, serve

pytestmark = pytest.mark.slow

TICKER = """
import pathlib, time
import mlflow

class Ticker(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return {"ticks": model_input["input"]}

    def predict_stream(self, context, model_input, params=None):
        count, seconds, note = model_input["input"].split()
        try:
            for number in range(int(count)):
                yield {"number": number}
                time.sleep(float(seconds))
                if number == 90:
                    raise RuntimeError("confidential")
        finally:
            pathlib.Path(note).write_text("closed")

mlflow.models.set_model(Ticker())
"""


@contextmanager
def serve_code(code: str, folder: Path) -> Iterator[Running]:
    (folder / "model.py").write_text(code)
    mlflow.pyfunc.save_model(folder / "model", python_model=str(folder / "model.py"), pip_requirements=["mlflow"])
    with serve(build(folder / "model", folder), folder / "model", folder) as running:
        yield running


@pytest.fixture(scope="module")
def ticker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serve_code(TICKER, tmp_path_factory.mktemp("ticker")) as running:
        yield running


def stream(ticker: Running, asked: str) -> Iterator[Any]:
    return score_stream(ticker.url, {"input": asked}, api_key=KEY, timeout_seconds=30)


def seconds_until_closed(note: Path) -> float:
    began = time.monotonic()
    while not note.exists():
        assert time.monotonic() - began < 30
        time.sleep(0.01)
    return time.monotonic() - began


def test_a_body_that_asks_for_a_stream_gets_the_events_that_mlflows_clients_read(
    ticker: Running, tmp_path: Path
) -> None:
    asked = {"input": f"2 0 {tmp_path / 'note'}", "stream": True}

    streamed = ticker.session.post(f"{ticker.url}/invocations", json=asked)
    plain = ticker.session.post(f"{ticker.url}/invocations", json={**asked, "stream": False})
    nested = ticker.session.post(f"{ticker.url}/invocations", json={"input": '"stream": true', "c": {"stream": True}})

    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text == 'data: {"number": 0}\n\ndata: {"number": 1}\n\ndata: [DONE]\n\n'
    assert plain.json() == {"ticks": asked["input"]}
    assert nested.json() == {"ticks": '"stream": true'}


def test_the_first_chunk_arrives_before_the_second_is_computed(ticker: Running, tmp_path: Path) -> None:
    began = time.monotonic()
    chunks = stream(ticker, f"2 3 {tmp_path / 'note'}")

    first = next(chunks), time.monotonic() - began
    rest = list(chunks)

    assert first[0] == {"number": 0}
    assert first[1] < 2.5
    assert rest == [{"number": 1}]
    assert time.monotonic() - began > 3


def test_a_caller_that_leaves_ends_the_models_work_within_a_second(ticker: Running, tmp_path: Path) -> None:
    chunks = stream(ticker, f"1000 0.05 {tmp_path / 'note'}")
    next(chunks)

    chunks.close()

    assert seconds_until_closed(tmp_path / "note") < 1


def test_a_load_balancer_passes_on_each_chunk_and_that_the_caller_left(ticker: Running, tmp_path: Path) -> None:
    target = ("127.0.0.1", int(ticker.url.split(":")[2].partition("/")[0]))
    with LoadBalancer(idle_timeout_seconds=2) as balancer:
        balancer.set_routes([RoutingRule(1, path_patterns=("/*",), targets=(WeightedTargets((target,)),))])
        url = f"{balancer.url}/digits"
        left = score_stream(url, {"input": f"1000 0.05 {tmp_path / 'left'}"}, timeout_seconds=30)
        silent = score_stream(url, {"input": f"2 4 {tmp_path / 'silent'}"}, timeout_seconds=30)

        first = [next(left), next(silent)]
        left.close()

        assert first == [{"number": 0}, {"number": 0}]
        assert seconds_until_closed(tmp_path / "left") < 1
        with pytest.raises(PredictionFailed, match=r"the stream was interrupted|without \[DONE\]"):
            next(silent)  # its chunk takes longer than the idle timeout


def test_a_task_that_is_stopped_finishes_its_streams(tmp_path: Path) -> None:
    with serve_code(TICKER, tmp_path) as running:
        chunks = stream(running, f"8 0.5 {tmp_path / 'note'}")
        first = next(chunks)
        running.process.terminate()  # it accepts requests for two more seconds

        assert [first, *chunks] == [{"number": number} for number in range(8)]
        assert running.process.wait(20) == 0


def test_a_hundred_streams_run_side_by_side(ticker: Running, tmp_path: Path) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(100) as pool:
        asked = [f"5 0.4 {tmp_path / str(number)}" for number in range(100)]
        answers = list(pool.map(lambda one: list(stream(ticker, one)), asked))

    assert answers == [[{"number": number} for number in range(5)]] * 100
    assert time.monotonic() - began < 100 * 5 * 0.4 / 4  # one after the other, they take 200 seconds
    assert len(list(tmp_path.iterdir())) == 100


def test_a_failure_on_the_way_is_raised_after_the_chunks_before_it(ticker: Running, tmp_path: Path) -> None:
    chunks = stream(ticker, f"95 0 {tmp_path / 'note'}")

    assert [next(chunks)["number"] for _ in range(91)] == list(range(91))
    with pytest.raises(PredictionFailed, match="stopped streaming: The model failed on this input") as failed:
        next(chunks)
    assert "confidential" not in str(failed.value)
    raw = ticker.session.post(
        f"{ticker.url}/invocations", json={"input": f"95 0 {tmp_path / 'note'}", "stream": True}
    ).text.split("\n\n")
    assert json.loads(raw[-3].removeprefix("data: "))["error"]["error_code"] == "INTERNAL_ERROR"
    assert raw[-2:] == ["data: [DONE]", ""]


def test_a_stream_that_ends_with_the_task_is_an_error(tmp_path: Path) -> None:
    with serve_code(TICKER, tmp_path) as running:
        chunks = stream(running, f"1000 0.1 {tmp_path / 'note'}")
        next(chunks)
        running.process.kill()

        with pytest.raises(PredictionFailed, match=r"the stream was interrupted|without \[DONE\]"):
            list(chunks)

"""The record of requests of a running service, in a bucket that checks signatures, with a role's credentials."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import requests
import yaml
from sklearn.linear_model import LogisticRegression

from mlflow_fargate import bento
from mlflow_fargate.local.s3.app import S3App
from mlflow_fargate.local.s3.store import S3Store
from mlflow_fargate.local.signature import Keys
from mlflow_fargate.local.wsgi_server import WsgiServer
from mlflow_fargate.resolved_model import ResolvedModel
from support.serving_process import KEY, Running, build, serve

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[2] / "docs" / "recipes.md"
TABLE = pd.DataFrame({"age": [20.0, 30.0, 50.0, 60.0], "calls": [9.0, 1.0, 8.0, 0.0]})
KEYS = Keys("AKIDROLE", "role-secret")
MODEL = """
import time
import mlflow

class Adder(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        if (model_input["a"] < 0).any():
            raise RuntimeError("negative")
        if (model_input["a"] == 99).any():
            print("sleeping", flush=True)
            time.sleep(120)
        return (model_input["a"] + 1).tolist()

mlflow.models.set_model(Adder())
"""


CUSTOM = """
from pathlib import Path
import bentoml

@bentoml.service
class Mine:
    @bentoml.api
    def double(self, number: int) -> int:
        return 2 * number

    @bentoml.api
    def size(self, file: Path) -> int:
        return file.stat().st_size
"""


class Agent(BaseHTTPRequestHandler):
    """ECS's agent: the credentials of the task's role, and the task's ID."""

    def do_GET(self) -> None:
        answers = {
            "/role": {"AccessKeyId": KEYS.access_key_id, "SecretAccessKey": KEYS.secret_access_key},
            "/v4/container/task": {"TaskARN": "arn:aws:ecs:us-east-1:123456789012:task/cluster/0123abcd"},
        }
        is_allowed = self.path != "/role" or self.headers["Authorization"] == "agent-token"
        self.send_response(200 if is_allowed else 403)
        self.end_headers()
        self.wfile.write(json.dumps(answers[self.path] if is_allowed else {}).encode())

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Bucket:
    """A local bucket and the environment of tasks that write to it."""

    store: S3Store
    environment: dict[str, str]

    def listed(self) -> list[str]:
        page = self.store.list_objects("logs", prefix=b"", delimiter=b"", begin=b"", limit=1000)
        return [one.key.decode() for one in page.objects]

    def rows(self) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        for key in self.listed():
            _, file = self.store.open_object("logs", key.encode())
            with file:
                lines += map(json.loads, gzip.decompress(file.read()).splitlines())
        return lines


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    app = S3App(tmp_path / "s3", keys=KEYS)
    app.store.create_bucket("logs")
    agent = ThreadingHTTPServer(("127.0.0.1", 0), Agent)
    threading.Thread(target=agent.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{agent.server_port}"
    with WsgiServer(app, access_key_id=KEYS.access_key_id) as server:
        yield Bucket(
            app.store,
            {
                "AWS_ENDPOINT_URL": server.url,
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{address}/role",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN": "agent-token",
                "ECS_CONTAINER_METADATA_URI_V4": f"{address}/v4/container",
            },
        )
    agent.shutdown()
    agent.server_close()
    app.close()


def inference_log(**changes: Any) -> str:
    settings = {
        "url": "s3://logs/p q/",
        "region": "us-east-1",
        "endpoint": "default",
        "deployment": "digits",
        "sampling_fraction": 1.0,
        "max_body_kb": 64,
        "drop": [],
        "hash": [],
    }
    return json.dumps({**settings, **changes})


def save_adder(folder: Path) -> Path:
    (folder / "code.py").write_text(MODEL)
    example = pd.DataFrame({"a": [1.0]})
    mlflow.pyfunc.save_model(
        folder / "model",
        python_model=str(folder / "code.py"),
        input_example=example,
        pip_requirements=["mlflow", "pandas"],
    )
    return folder / "model"


@contextmanager
def serve_recorded(
    bucket: Bucket, folder: Path, log: str, save: Callable[[Path], Path] = save_adder, **environment: str
) -> Iterator[Running]:
    model = save(folder)
    settings = {**bucket.environment, "INFERENCE_LOG": log, "API_KEY": KEY, "DRAIN_SECONDS": "1", **environment}
    with serve(build(model, folder), model, folder, **settings) as running:
        yield running


def stop(running: Running) -> None:
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(60) == 0


def test_every_answer_is_recorded_with_its_request_whatever_the_status(bucket: Bucket, tmp_path: Path) -> None:
    with serve_recorded(bucket, tmp_path, inference_log(), MODEL_VARIANT="challenger") as running:
        session, url = running.session, f"{running.url}/invocations"
        sent = [
            session.post(url, json={"dataframe_records": [{"a": 1.0}]}, headers={"X-Request-Id": "mine"}),
            session.post(url, data="a\n1.5\n", headers={"Content-Type": "text/csv; charset=utf-8"}),
            session.post(url, data="{", headers={"Content-Type": "application/json"}),
            session.post(url, json={"dataframe_records": [{"a": -1.0}]}),
            session.post(url, data=21_000_000 * b"x", headers={"Content-Type": "application/json"}),
            session.post(url, data=70_000 * b" " + b"{", headers={"Content-Type": "application/json"}),
        ]
        unrecorded = [
            requests.post(url, json={"dataframe_records": [{"a": 1.0}]}),
            session.get(f"{running.url}/ping"),
            session.post(f"{running.url}/nowhere"),
        ]
        stop(running)
        log = running.log.read_text()

    rows = {row["databricks_request_id"]: row for row in bucket.rows()}
    assert [answer.status_code for answer in sent] == [200, 200, 400, 500, 413, 400]
    assert [answer.status_code for answer in unrecorded] == [401, 200, 404]
    assert len(bucket.rows()) == len(sent) and rows.keys() == {answer.headers["X-Request-Id"] for answer in sent}
    for answer in sent:
        row = rows[answer.headers["X-Request-Id"]]
        assert (row["status_code"], row["response"]) == (answer.status_code, answer.text)
        assert row["model_version"] == answer.headers["X-Model-Version"] == "3"
    first, csv = (rows[answer.headers["X-Request-Id"]] for answer in sent[:2])
    assert first["request"] == '{"dataframe_records": [{"a": 1.0}]}'
    assert (first["client_request_id"], csv["client_request_id"]) == ("mine", None)
    assert (csv["request"], csv["content_type"], csv["path"]) == ("a\n1.5\n", "text/csv", "/invocations")
    assert rows[sent[5].headers["X-Request-Id"]]["logging_error_codes"] == ["MAX_REQUEST_SIZE_EXCEEDED"]
    deployed = {
        "deployment": "digits",
        "variant": "challenger",
        "run_id": "0a1b",
        "served_entity_id": "models:/digits/3",
    }
    assert deployed.items() <= first.items()
    (key,) = bucket.listed()
    date, hour = first["request_date"], first["request_time"][11:13]
    assert key.startswith(f"p q/endpoint=default/deployment=digits/date={date}/hour={hour}/0123abcd-")
    assert KEY not in json.dumps(bucket.rows()) and KEYS.secret_access_key not in log
    assert "lost" not in log


@pytest.mark.exhaustive
def test_32_clients_and_a_stop_under_load_are_recorded_exactly_once(bucket: Bucket, tmp_path: Path) -> None:
    answered: list[str] = []

    def call(_: int) -> None:
        session = running.session
        with session:
            while True:
                try:
                    answer = session.post(f"{running.url}/invocations", json={"dataframe_records": [{"a": 1.0}]})
                except requests.ConnectionError:
                    return
                answered.append(answer.headers["X-Request-Id"])

    with serve_recorded(bucket, tmp_path, inference_log()) as running:
        with ThreadPoolExecutor(32) as threads:
            calls = threads.map(call, range(32))
            while len(answered) < 1000:
                threading.Event().wait(0.05)
            stop(running)
            list(calls)
        log = running.log.read_text()

    recorded = [row["databricks_request_id"] for row in bucket.rows()]
    assert len(recorded) == len(set(recorded)) and set(answered) <= set(recorded)
    assert len(recorded) - len(answered) <= 32  # answers whose connection ended before the client read them
    assert "lost" not in log


def test_a_request_that_is_refused_when_the_task_ends_is_recorded_too(bucket: Bucket, tmp_path: Path) -> None:
    with (
        serve_recorded(bucket, tmp_path, inference_log(), STOP_TIMEOUT_SECONDS="12") as running,
        ThreadPoolExecutor(1) as threads,
    ):
        body = {"dataframe_records": [{"a": 99.0}]}
        refused = threads.submit(running.session.post, f"{running.url}/invocations", json=body)
        while "sleeping" not in running.log.read_text():
            threading.Event().wait(0.1)
        stop(running)

    (row,) = bucket.rows()
    assert refused.result().status_code == row["status_code"] == 503
    assert row["response"] == refused.result().text


def test_a_custom_service_is_recorded_with_its_own_routes(bucket: Bucket, tmp_path: Path) -> None:
    model = save_adder(tmp_path)
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "mine.py").write_text(CUSTOM)
    resolved = ResolvedModel("m", "m", str(model), (), yaml.safe_load((model / "MLmodel").read_text()), ("mlflow",))
    served = bento.ServedModel(resolved, "custom", {}, bento.read_custom_service(tmp_path / "service" / "mine.py"), {})
    source = bento.build_bento(served, None, tmp_path / "bento").source
    settings = {**bucket.environment, "INFERENCE_LOG": inference_log(), "API_KEY": KEY}
    with serve(source, model, tmp_path, **settings) as running:
        doubled = running.session.post(f"{running.url}/double", json={"number": 21})
        files = {"file": ("cat.png", b"PNG", "image/png")}
        sized = running.session.post(f"{running.url}/size", files=files)
        stop(running)

    rows = {row["path"]: row for row in bucket.rows()}
    assert (doubled.text, sized.text) == ("42", "3")
    assert rows["/double"]["request"] == '{"number": 21}' and rows["/double"]["response"] == "42"
    (form,) = json.loads(rows["/size"]["request"])
    assert form["name"] is None and form["size"] > 3 and "PNG" not in json.dumps(bucket.rows())


def test_a_sample_and_hidden_columns(bucket: Bucket, tmp_path: Path) -> None:
    log = inference_log(sampling_fraction=0.5, drop=["email"], hash=["a"])
    with serve_recorded(bucket, tmp_path, log) as running:
        ids = [f"request-{number}" for number in range(100)]
        for one in ids:
            body = {"dataframe_records": [{"a": 1.0, "email": "ada@example.com"}]}
            running.session.post(f"{running.url}/invocations", json=body, headers={"X-Request-Id": one})
        stop(running)

    rows = bucket.rows()
    sampled = {one for one in ids if int.from_bytes(hashlib.sha256(one.encode()).digest()[:6], "big") < 2**47}
    assert {row["databricks_request_id"] for row in rows} == sampled
    assert {row["sampling_fraction"] for row in rows} == {0.5}
    assert "ada@example.com" not in json.dumps(rows)


@pytest.mark.exhaustive
def test_without_permission_records_are_lost_and_the_callers_do_not_notice(bucket: Bucket, tmp_path: Path) -> None:
    with serve_recorded(bucket, tmp_path, inference_log(url="s3://nowhere/p"), STOP_TIMEOUT_SECONDS="10") as running:
        answer = running.session.post(f"{running.url}/invocations", json={"dataframe_records": [{"a": 1.0}]})
        stop(running)
        log = running.log.read_text()

    assert answer.status_code == 200
    assert "inference log: 1 record was lost: S3 answered 404 NoSuchBucket" in log


@pytest.mark.exhaustive
def test_the_number_of_records_is_at_metrics(bucket: Bucket, tmp_path: Path) -> None:
    with serve_recorded(bucket, tmp_path, inference_log(url="s3://nowhere/p"), STOP_TIMEOUT_SECONDS="10") as running:
        metrics = running.session.get(f"{running.url}/metrics", timeout=10)
        stop(running)

    assert 'inference_log_records_total{result="lost"} 0.0' in metrics.text


def save_classifier(folder: Path, column: str = "age") -> Path:
    model = LogisticRegression().fit(TABLE, TABLE[column] > TABLE[column].median())
    mlflow.sklearn.save_model(model, folder / "model", input_example=TABLE)
    return folder / "model"


@pytest.mark.exhaustive
def test_the_recipes_replay_a_day_against_another_version_and_evaluate_it(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve_recorded(bucket, tmp_path, inference_log(), save_classifier) as running:
        for _, row in TABLE.iterrows():
            body = {"dataframe_split": row.to_frame().T.to_dict(orient="split")}
            answer = running.session.post(f"{running.url}/invocations", json=body)
            assert answer.status_code == 200, answer.text
        both = {"dataframe_records": TABLE.head(2).to_dict(orient="records")}
        running.session.post(f"{running.url}/invocations", json=both)
        running.session.post(f"{running.url}/invocations", json={"dataframe_records": [{"age": "x"}]})
        stop(running)
    (tmp_path / "other").mkdir()
    candidate = save_classifier(tmp_path / "other", "calls")
    single = [row["databricks_request_id"] for row in bucket.rows()[:4]]
    for key in bucket.listed():  # as `aws s3 sync` does
        _, file = bucket.store.open_object("logs", key.encode())
        target = tmp_path / "day" / key.rpartition("/")[2]
        target.parent.mkdir(exist_ok=True)
        with file:
            target.write_bytes(file.read())
    labels = pd.DataFrame({"request_id": single, "churned": [False, False, True, True]})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    monkeypatch.chdir(tmp_path)
    section = RECIPES.read_text().partition("\n## Use recorded predictions\n")[2].partition("\n## ")[0]
    first, replay, evaluate = re.findall(r"```python\n(.*?)```", section, re.DOTALL)

    names: dict[str, Any] = {}
    for code in (first, replay.replace("models:/churn/8", str(candidate)), evaluate):
        exec(code, names)

    assert len(names["log"]) == 6
    assert "3 of 6 predictions differ" in capsys.readouterr().out
    assert names["result"].metrics["accuracy_score"] == 1.0

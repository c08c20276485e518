"""The servers: how each is started, and the form in which it takes a request."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.serving.cases import Case, as_base64, as_form, as_rows, as_sent, as_tensor, as_text
from benchmarks.serving.environments import python_of
from benchmarks.serving.wrk import Request

APPS = Path(__file__).parent / "apps"
_LABELS = {str(number): f"label {number}" for number in range(6)}


@dataclass(frozen=True)
class Start:
    """A command, in a folder, and the path that answers once the server is ready."""

    command: list[str]
    health: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """A server: `start` gets the case, the folder of the models, an empty folder and a port."""

    name: str
    start: Callable[[Case, Path, Path, int], Start]
    request: Callable[[Case, bytes], Request]
    serves: Callable[[Case], bool] = lambda case: not case.is_csv


def _ours(case: Case, models: Path, work: Path, port: int) -> Start:
    from tests.support.serving_process import build  # imports the project

    model = models / case.model
    options = {"runtime": "onnx"} if case.model == "onnx" else {}
    source = build(model, work, labels=_LABELS if case.is_picture else None, options=options)
    environment = {
        "BENTOML_HOST": "127.0.0.1",
        "BENTOML_PORT": str(port),
        "BENTOML_HOME": str(work / "home"),
        "BENTOML_CONTAINERIZED": "true",
        "OTEL_SDK_DISABLED": "true",
        "MODEL_DIR": str(model),
        "TASK_MEMORY_MIB": "2048",
    }
    return Start([str(python_of("peers")), "-m", "fargate_service.serve"], "/readyz", source, environment)


def _ours_recorded(case: Case, models: Path, work: Path, port: int) -> Start:
    """Every request is recorded; the bucket is a server in this process that takes any PUT."""
    plan = _ours(case, models, work, port)
    bucket = ThreadingHTTPServer(("127.0.0.1", 0), _Bucket)
    threading.Thread(target=bucket.serve_forever, daemon=True).start()
    log: dict[str, Any] = {
        "url": "s3://logs/bench",
        "region": "us-east-1",
        "endpoint": "default",
        "deployment": "bench",
    }
    log |= {"sampling_fraction": 1.0, "max_body_kb": 64, "drop": [], "hash": []}
    further = {
        "INFERENCE_LOG": json.dumps(log),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{bucket.server_port}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
    }
    return replace(plan, environment={**plan.environment, **further})


class _Bucket(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _mlflow(workers: int) -> Callable[[Case, Path, Path, int], Start]:
    def start(case: Case, models: Path, work: Path, port: int) -> Start:
        model = models / case.model / "as_text" if case.is_picture else models / case.model
        python = python_of("peers")
        command = [str(python), "-m", "mlflow", "models", "serve", "--env-manager", "local", "-m", str(model)]
        # mlflow finds uvicorn on PATH.
        environment = {"PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin"}
        return Start([*command, "-w", str(workers), "-p", str(port)], "/ping", work, environment)

    return start


def _app(command: list[str], health: str, **variables: str) -> Callable[[Case, Path, Path, int], Start]:
    def start(case: Case, models: Path, _: Path, port: int) -> Start:
        environment = {"BENCH_MODEL": str(models / case.model), "BENTOML_DO_NOT_TRACK": "true", **variables}
        return Start([str(python_of("peers")), *command, str(port)], health, APPS, environment)

    return start


def _mlserver(runtime: str, file: str, *, batches: bool) -> Callable[[Case, Path, Path, int], Start]:
    def start(case: Case, models: Path, work: Path, port: int) -> Start:
        settings = {
            "host": "127.0.0.1",
            "http_port": port,
            "grpc_port": free_port(),
            "metrics_port": free_port(),
            "parallel_workers": 0,  # faster here than its default, a process beside the server
            "debug": False,
        }
        model: dict[str, Any] = {
            "name": "m",
            "implementation": runtime,
            "parameters": {"uri": str(models / case.model / file)},
        }
        if batches:
            model |= {"max_batch_size": 32, "max_batch_time": 0.01}
        (work / "settings.json").write_text(json.dumps(settings))
        (work / "model-settings.json").write_text(json.dumps(model))
        mlserver = python_of("mlserver").parent / "mlserver"
        return Start([str(mlserver), "start", str(work)], "/v2/models/m/ready", work)

    return start


def _predict(form: Callable[[Case, bytes, str], Request], path: str = "/predict") -> Callable[[Case, bytes], Request]:
    return lambda case, body: form(case, body, path)


def _as_mlflow(case: Case, body: bytes) -> Request:
    return (as_text if case.is_picture else as_sent)(case, body, "/invocations")


def _as_ours(case: Case, body: bytes) -> Request:
    return as_sent(case, body, "/predict_image" if case.is_picture else "/invocations")


def _as_app(case: Case, body: bytes) -> Request:
    return (as_form if case.is_picture else as_rows)(case, body, "/predict")


def _as_lit(case: Case, body: bytes) -> Request:
    return (as_base64 if case.is_picture else as_rows)(case, body, "/predict")


def _any(_: Case) -> bool:
    return True


def _tables(case: Case) -> bool:
    return not case.is_picture


def _of(*models: str) -> Callable[[Case], bool]:
    return lambda case: case.model in models and not case.is_csv


_UVICORN = ["-m", "uvicorn", "fast:app", "--loop=uvloop", "--http=httptools", "--no-access-log", "--port"]
_BENTO = ["-m", "bentoml", "serve", "bento:Peer", "--host", "127.0.0.1", "--port"]
_SKLEARN, _XGBOOST, _MLFLOW = (
    "mlserver_sklearn.SKLearnModel",
    "mlserver_xgboost.XGBoostModel",
    "mlserver_mlflow.MLflowRuntime",
)
_INFER = _predict(as_tensor, "/v2/models/m/infer")
OURS, RECORDED = "mlflow-fargate", "mlflow-fargate, inference_log"
PEERS = (
    Peer(OURS, _ours, _as_ours, _any),
    Peer(RECORDED, _ours_recorded, _as_ours, lambda case: case.model == "linear"),
    Peer("mlflow", _mlflow(1), _as_mlflow, _any),
    Peer("mlflow, 2 workers", _mlflow(2), _as_mlflow, _any),
    Peer("BentoML", _app(_BENTO, "/readyz"), _as_app),
    Peer("BentoML, batchable", _app(_BENTO, "/readyz", BENCH_BATCHABLE="1"), _as_app),
    Peer("FastAPI, array", _app(_UVICORN, "/docs"), _predict(as_sent), _any),
    Peer("FastAPI, DataFrame", _app(_UVICORN, "/docs", BENCH_DATAFRAME="1"), _predict(as_sent), _tables),
    Peer("LitServe, batches", _app(["lit.py"], "/health"), _as_lit),
    Peer("MLServer", _mlserver(_SKLEARN, "peer.joblib", batches=False), _INFER, _of("linear", "forest", "wide")),
    Peer(
        "MLServer, batches", _mlserver(_SKLEARN, "peer.joblib", batches=True), _INFER, _of("linear", "forest", "wide")
    ),
    Peer("MLServer, XGBoost", _mlserver(_XGBOOST, "peer.json", batches=False), _INFER, _of("xgboost")),
    Peer("MLServer, XGBoost, batches", _mlserver(_XGBOOST, "peer.json", batches=True), _INFER, _of("xgboost")),
    Peer("MLServer, mlflow", _mlserver(_MLFLOW, "", batches=False), _as_mlflow, _tables),
)


def free_port() -> int:
    """Returns a port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def floor_command(case: Case, body: Path, media_type: str, count: int, seconds: float) -> list[str]:
    """Returns the command that prints the floor's rate and median."""
    return [str(python_of("peers")), str(APPS / "floor.py"), str(body), media_type, str(count), str(seconds)]


def make_models(folder: Path) -> list[str]:
    """Returns the command that saves models and bodies in `folder`."""
    template = Path(__file__).resolve().parents[2] / "service_template"
    return [str(python_of("peers")), str(APPS / "make_models.py"), str(folder), str(template)]

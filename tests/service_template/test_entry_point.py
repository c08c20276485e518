"""The image's entry point, run as a task does: one process, its exit code, and its last line."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import bentoml
import mlflow
import pandas as pd
import psutil
import pytest
import requests
import yaml

from fargate_service.one_process import _refuse_new_connections
from fargate_service.serve import needs_supervisor
from mlflow_fargate import bento
from mlflow_fargate.resolved_model import ResolvedModel
from support.serving_process import KEY, Running, build, serve

BODY = {"dataframe_records": [{"seconds": 0.0}]}
MODEL = """
import time
import mlflow

class Model(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        LOAD

    def predict(self, context, model_input, params=None):
        PREDICT
        return model_input["seconds"].tolist()

mlflow.models.set_model(Model())
"""


def save_model(folder: Path, load: str = "pass", predict: str = "pass") -> Path:
    (folder / "code.py").write_text(MODEL.replace("LOAD", load).replace("PREDICT", predict))
    example = pd.DataFrame({"seconds": [0.0]})
    mlflow.pyfunc.save_model(
        folder / "model", python_model=str(folder / "code.py"), pip_requirements=["mlflow", "pandas"]
    )
    (folder / "model" / "serving_input_example.json").write_text(
        f'{{"dataframe_split": {example.to_json(orient="split", index=False)}}}'
    )
    return folder / "model"


@contextmanager
def serve_model(
    folder: Path, environment: Mapping[str, str] | None = None, *, ready: bool = True, **code: str
) -> Iterator[Running]:
    model = save_model(folder, **code)
    with serve(build(model, folder), model, folder, ready=ready, **(environment or {})) as running:
        yield running


@contextmanager
def serve_custom(folder: Path, code: str, *, ready: bool = True, **environment: str) -> Iterator[Running]:
    model = save_model(folder)
    file = folder / "service" / "mine.py"
    file.parent.mkdir()
    file.write_text(code)
    resolved = ResolvedModel("m", "m", str(model), (), yaml.safe_load((model / "MLmodel").read_text()), ("mlflow",))
    served = bento.ServedModel(resolved, "custom", {}, bento.read_custom_service(file), {})
    source = bento.build_bento(served, None, folder / "bento").source
    with serve(source, model, folder, ready=ready, API_KEY=KEY, DRAIN_SECONDS="1", **environment) as running:
        yield running


def end_of(running: Running) -> tuple[int, list[str]]:
    return running.process.wait(120), running.log.read_text().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (
            {"load": "import a_module_that_is_not_there"},
            "ModelLoadError: ModuleNotFoundError: No module named 'a_module_that_is_not_there'",
        ),
        (
            {"predict": "raise ValueError('three\\nlines\\nof text')"},
            "InputExampleError: ValueError: three lines of text",
        ),
    ],
)
def test_the_last_line_of_a_failed_start_is_its_cause(code: dict[str, str], cause: str, tmp_path: Path) -> None:
    with serve_model(tmp_path, ready=False, **code) as running:
        exit_code, lines = end_of(running)

    assert exit_code == 1
    assert lines[-1] == cause
    traceback = lines[max(number for number, line in enumerate(lines) if line.startswith("Traceback")) :]
    frames = [line for line in traceback if line.startswith("  File ")]
    assert any("code.py" in frame for frame in frames), traceback
    assert not any(name in frame for frame in frames for name in ("fargate_service", "bentoml", "uvicorn", "starlette"))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["import", "start"])
def test_a_custom_service_that_calls_exit_is_named_as_the_cause(when: str, tmp_path: Path) -> None:
    leave = "sys.exit('the license has expired')"
    code = f"""
import sys
import bentoml
{leave if when == "import" else ""}

@bentoml.service
class Mine:
    def __init__(self) -> None:
        {leave if when == "start" else "pass"}

    @bentoml.api
    def double(self, number: int) -> int:
        return 2 * number
"""
    with serve_custom(tmp_path, code, ready=False) as running:
        exit_code, lines = end_of(running)

    assert exit_code == 1
    assert lines[-1] == "ServiceStartError: SystemExit: the license has expired"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["import", "start"])
@pytest.mark.parametrize("api", ["api", "task"])
def test_the_last_line_is_the_cause_for_custom_services_too(kind: str, api: str, tmp_path: Path) -> None:
    failing = "import a_module_that_is_not_there"
    code = f"""
import bentoml
{failing if kind == "import" else ""}

@bentoml.service
class Mine:
    def __init__(self) -> None:
        {failing if kind == "start" else "pass"}

    @bentoml.{api}
    def double(self, number: int) -> int:
        return 2 * number
"""
    with serve_custom(tmp_path, code, ready=False) as running:
        exit_code, lines = end_of(running)

    assert exit_code == 1
    assert lines[-1] == "ServiceStartError: ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    assert any("mine.py" in line for line in lines)


WITH_VARIABLE = """
import os
import bentoml

@bentoml.service(envs=[{"name": "MY_SETTING", "value": "seven"}])
class Mine:
    @bentoml.api
    def setting(self) -> str:
        return os.environ["MY_SETTING"]
"""
WITH_DEPENDENCY = """
import bentoml

@bentoml.service(WORKERS)
class Inner:
    @bentoml.api
    def double(self, number: int) -> int:
        return 2 * number

@bentoml.service
class Mine:
    inner = bentoml.depends(Inner)

    @bentoml.api
    def double(self, number: int) -> int:
        return self.inner.double(number=number)
"""


@pytest.mark.slow
def test_the_variables_that_a_custom_service_names_are_set(tmp_path: Path) -> None:
    with serve_custom(tmp_path, WITH_VARIABLE) as running:
        assert running.session.post(f"{running.url}/setting", json={}).text == "seven"


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "processes"), [("", 1), ("workers=2", 4)])
def test_a_service_and_those_that_it_depends_on_share_one_process(workers: str, processes: int, tmp_path: Path) -> None:
    with serve_custom(tmp_path, WITH_DEPENDENCY.replace("WORKERS", workers)) as running:
        assert running.session.post(f"{running.url}/double", json={"number": 4}).json() == 8
        assert len(psutil.Process(running.process.pid).children(recursive=True)) + 1 == processes


@pytest.mark.slow
def test_a_service_with_tasks_is_served(tmp_path: Path) -> None:
    code = WITH_DEPENDENCY.replace("WORKERS", "").replace("    @bentoml.api", "    @bentoml.task")
    with serve_custom(tmp_path, code) as running:
        submitted = running.session.post(f"{running.url}/double/submit", json={"number": 4})
        running.process.send_signal(signal.SIGTERM)
        exit_code = running.process.wait(60)

    assert submitted.status_code == 200, submitted.text
    assert exit_code == 0


def test_what_needs_a_supervisor_is_known() -> None:
    @bentoml.service
    class Plain:
        @bentoml.api
        def answer(self) -> str:
            return ""

    @bentoml.service(workers=2)
    class Several:
        pass

    @bentoml.service
    class Tasks:
        @bentoml.task
        def answer(self) -> str:
            return ""

    @bentoml.service
    class Prepared:
        @bentoml.on_deployment
        def prepare() -> None:
            pass

    @bentoml.service
    class Batched:
        @bentoml.api(batchable=True)
        def answer(self, numbers: list[int]) -> list[int]:
            return numbers

    @bentoml.service
    class UsesPlain:
        plain = bentoml.depends(Plain)

    @bentoml.service
    class UsesBatched:
        batched = bentoml.depends(Batched)

    @bentoml.service
    class UsesSeveral:
        several = bentoml.depends(Several)

    assert [service.name for service in (Plain, Batched, UsesPlain) if needs_supervisor(service)] == []
    assert all(needs_supervisor(service) for service in (Several, Tasks, Prepared, UsesBatched, UsesSeveral))


@pytest.mark.slow
@pytest.mark.parametrize("has_server", [False, True])
def test_traces_are_made_only_if_a_server_is_named(has_server: bool, tmp_path: Path) -> None:
    traced = "return [mlflow.trace(lambda: mlflow.get_current_active_span() is not None)()]"
    environment = {"OTEL_SDK_DISABLED": "false"}
    if has_server:
        # Nothing has to listen there: traces are sent in the background.
        environment |= {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with serve_model(tmp_path, environment, predict=traced) as running:
        answer = requests.post(f"{running.url}/invocations", json=BODY, timeout=30)

    assert answer.json() == {"predictions": [has_server]}, running.log.read_text()


@pytest.mark.slow
def test_sigterm_ends_a_model_that_still_loads(tmp_path: Path) -> None:
    with serve_model(tmp_path, ready=False, load="print('loading', flush=True) or time.sleep(60)") as running:
        while "loading" not in running.log.read_text():
            time.sleep(0.1)
        running.process.send_signal(signal.SIGTERM)

        assert running.process.wait(10) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")
def test_a_socket_that_is_about_to_close_opens_no_connection_and_serves_the_open_ones() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as early, socket.socket() as late:
            _refuse_new_connections(listener)
            late.settimeout(0.3)
            with pytest.raises(TimeoutError):
                late.connect(address)
            accepted, _ = listener.accept()
            with accepted:
                early.sendall(b"served")
                assert accepted.recv(6) == b"served"
            listener.settimeout(0)
            with pytest.raises(BlockingIOError):
                listener.accept()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


@pytest.mark.slow
def test_sigterm_under_load_loses_no_request(tmp_path: Path) -> None:
    """After SIGTERM each request is answered or its connection refused; none is accepted and then reset."""
    seen: Counter[str] = Counter()

    def ask_until_refused(url: str, *, keep_alive: bool) -> None:
        session = requests.Session()
        while True:
            try:
                answer = (session if keep_alive else requests).post(f"{url}/invocations", json=BODY, timeout=30)
            except requests.ConnectionError as error:
                refused = "Connection refused" in str(error)
                seen["refused" if refused else f"lost: {error}"] += 1
                if refused:
                    return
            else:
                seen[f"{answer.status_code} {answer.text}"] += 1

    with serve_model(tmp_path) as running:
        clients = [
            threading.Thread(target=ask_until_refused, args=(running.url,), kwargs={"keep_alive": number % 2 == 0})
            for number in range(16)
        ]
        for client in clients:
            client.start()
        time.sleep(2)
        running.process.send_signal(signal.SIGTERM)
        exit_code = running.process.wait(30)
        for client in clients:
            client.join()

    assert exit_code == 0
    answers = seen.pop('200 {"predictions": [0.0]}')
    assert answers > 16
    assert seen == {"refused": 16}

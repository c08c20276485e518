"""The user's BentoML service, run as in the image, with several models and its own files."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
import yaml

from fargate_service.custom_service import make_custom_service
from fargate_service.http.middleware import BodyLimit
from fargate_service.settings import ServiceDescription, Settings
from mlflow_fargate import bento
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.resolved_model import ResolvedModel
from mlflow_fargate.scoring import score
from support.serving_process import KEY, Running, serve

SERVICE = """
import time
from pathlib import Path
import bentoml
from deployed import load_model
from greeting import GREETING

@bentoml.service
class Greeter:
    def __init__(self):
        self.first, self.second = load_model(), load_model("second")
        self.names = Path(__file__).with_name("names.txt").read_text().split()

    @bentoml.api
    def greet(self, number: int) -> dict:
        answers = [self.first.predict([1]), self.second.predict([1])]
        return {"said": f"{GREETING} {self.names[number]}", "models": answers}

    @bentoml.api
    def measure(self, picture: Path, unit: str = "bytes") -> str:
        return f"{picture.stat().st_size} {unit}"

    @bentoml.api
    def weigh(self, files: list[Path]) -> int:
        return sum(file.stat().st_size for file in files)

    @bentoml.api
    def inspect(self, picture: Path, /) -> int:
        return picture.stat().st_size

    @bentoml.api
    def think(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds
"""
MODEL = """
import mlflow

class Adds(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [number + AMOUNT for number in model_input]

mlflow.models.set_model(Adds())
"""


def write_service(folder: Path) -> Path:
    """A service with a module, a file and requirements next to it."""
    folder.mkdir(parents=True)
    (folder / "hello.py").write_text(SERVICE)
    (folder / "greeting.py").write_text("GREETING = 'hello'\n")
    (folder / "names.txt").write_text("Ada Grace")
    (folder / "requirements.txt").write_text("# what it needs\nhumanize>=4\n\n")
    (folder / ".env").write_text("PASSWORD=1")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "hello.pyc").write_bytes(b"\0")
    return folder / "hello.py"


def log_model(folder: Path, amount: int) -> ResolvedModel:
    code = folder.with_suffix(".py")
    code.write_text(MODEL.replace("AMOUNT", str(amount)))
    mlflow.pyfunc.save_model(folder, python_model=str(code), pip_requirements=["mlflow", f"six>=1.{amount}"])
    return ResolvedModel(
        requested_uri=f"models:/m/{amount}",
        resolved_uri=f"models:/m/{amount}",
        artifact_uri=str(folder),
        files=(),
        metadata=yaml.safe_load((folder / "MLmodel").read_text()),
        requirements=("mlflow", f"six>=1.{amount}"),
    )


@contextmanager
def serve_greeter(folder: Path, **environment: str) -> Iterator[Running]:
    own = bento.read_custom_service(write_service(folder / "service"))
    (folder / "models").mkdir()
    first, second = log_model(folder / "first", 1), log_model(folder / "models" / "second", 2)
    built = bento.build_bento(bento.ServedModel(first, "custom", {}, own, {"second": second}), None, folder / "bento")
    environment = {"API_KEY": KEY, "MODELS_DIR": str(folder / "models"), "DRAIN_SECONDS": "1", **environment}
    with serve(built.source, folder / "first", folder, **environment) as running:
        yield running


@pytest.fixture(scope="module")
def greeter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serve_greeter(tmp_path_factory.mktemp("own")) as running:
        yield running


@pytest.mark.slow
def test_it_answers_with_its_models_and_files(greeter: Running) -> None:
    response = greeter.session.post(f"{greeter.url}/greet", json={"number": 1})

    assert response.json() == {"said": "hello Grace", "models": [[2], [3]]}
    assert response.headers["x-request-id"]


@pytest.mark.slow
def test_predict_finds_the_api_by_the_names_of_its_inputs(greeter: Running, tmp_path: Path) -> None:
    def ask(inputs: object) -> object:
        return score(greeter.url, inputs, api_key=KEY, is_custom_service=True)

    (tmp_path / "sea.png").write_bytes(b"12345")

    assert ask({"number": 0}) == {"said": "hello Ada", "models": [[2], [3]]}
    assert ask({"picture": tmp_path / "sea.png"}) == "5 bytes"
    assert ask({"picture": b"123", "unit": "letters"}) == "3 letters"
    with pytest.raises(InvalidOption, match=r"/greet \(number\), .*/measure \(picture, unit\)"):
        ask({"pictures": b"123"})


@pytest.mark.slow
def test_it_has_the_same_guards_as_the_templates(greeter: Running) -> None:
    assert requests.post(f"{greeter.url}/greet", json={"number": 1}, timeout=10).status_code == 401
    assert [requests.get(greeter.url + path, timeout=10).status_code for path in ("/ping", "/health", "/readyz")] == [
        200
    ] * 3
    assert greeter.session.get(f"{greeter.url}/wp-admin").json()["error_code"] == "ENDPOINT_NOT_FOUND"
    assert greeter.session.post(f"{greeter.url}/greet", json={"number": "one"}).status_code == 400
    page = greeter.session.get(f"{greeter.url}/").text
    assert "swagger-ui" in page
    assert "googletagmanager" not in page
    assert "/greet" in greeter.session.get(f"{greeter.url}/docs.json").json()["paths"]


@pytest.fixture
def inner_server() -> Iterator[tuple[str, list[str]]]:
    """A server that only the task can reach: its address, and the paths that were requested."""
    asked: list[str] = []

    class Inner(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"secret")

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Inner) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def send_urls(running: Running, inner: str, times: int) -> list[requests.Response]:
    """Sends a URL in place of a file in every form that BentoML fetches, many at once."""
    url, headers = f"{inner}/latest/meta-data/", {"Authorization": f"Bearer {KEY}"}

    def send(number: int) -> requests.Response:
        form, path, json_type = {**headers}, f"{running.url}/measure", {"Content-Type": "application/json"}
        match number % 4:
            case 0:
                return requests.post(path, files={"picture": (None, url)}, headers=form, timeout=60)
            case 1:
                return requests.post(path, data={"picture": f'"{url}"'}, headers=form, timeout=60)
            case 2:
                files = [("files", (None, url)), ("files", (None, url))]
                return requests.post(f"{running.url}/weigh", files=files, headers=form, timeout=60)
        return requests.post(f"{running.url}/inspect", data=url, headers={**headers, **json_type}, timeout=60)

    with ThreadPoolExecutor(40) as pool:
        return list(pool.map(send, range(times)))


@pytest.mark.slow
def test_a_url_in_place_of_a_file_is_refused_and_not_fetched(
    greeter: Running, inner_server: tuple[str, list[str]]
) -> None:
    inner, asked = inner_server

    answers = send_urls(greeter, inner, 100)

    assert asked == []
    assert {answer.status_code for answer in answers} == {400}, answers[0].text
    assert all("send the file itself" in answer.text for answer in answers), answers[3].text
    assert not any(inner in answer.text for answer in answers)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_urls_in_place_of_files_reach_bentoml_only_if_the_deployment_accepts_them(
    tmp_path: Path, inner_server: tuple[str, list[str]]
) -> None:
    with serve_greeter(tmp_path, ACCEPT_FILE_URLS="true") as running:
        answers = send_urls(running, inner_server[0], 40)

    assert not any("send the file itself" in answer.text for answer in answers)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_it_has_the_same_limits_as_the_templates(tmp_path: Path) -> None:
    limits = {"MAX_CONCURRENT_REQUESTS": "1", "REQUEST_TIMEOUT_SECONDS": "3", "MAX_BODY_MB": "1"}
    with serve_greeter(tmp_path, **limits) as running, ThreadPoolExecutor(1) as other:
        url = f"{running.url}/think"
        headers = {"Authorization": f"Bearer {KEY}"}
        too_large = requests.post(url, data=b" " * 1_000_001, headers=headers, timeout=30)
        long = other.submit(requests.post, url, json={"seconds": 8.0}, headers=headers, timeout=30)
        time.sleep(1)
        refused = requests.post(url, json={"seconds": 0.0}, headers=headers, timeout=30)
        healthy = requests.get(f"{running.url}/readyz", timeout=10)
        too_long = long.result()

    assert (refused.status_code, healthy.status_code) == (429, 200), refused.text
    assert refused.headers["retry-after"] == "1"
    assert (too_large.status_code, too_large.json()["error_code"]) == (413, "REQUEST_TOO_LARGE")
    assert too_long.status_code == 504


@pytest.mark.parametrize(("workers", "share"), [("", 1), ("workers=4", 4), ('workers="cpu_count"', 2)])
def test_all_its_processes_together_have_half_of_the_memory_for_bodies(
    tmp_path: Path, workers: str, share: int
) -> None:
    code = f"import bentoml\n\n@bentoml.service({workers})\nclass Echo:\n    pass\n"
    (tmp_path / "custom").mkdir()
    (tmp_path / "custom" / "echo.py").write_text(code)
    description = ServiceDescription("custom", "custom", None, "models:/m/1", "m", "1", None, {"file": "echo.py"})

    service = make_custom_service(description, Settings(tmp_path, cpus=2, memory_bytes=1 << 30), tmp_path)

    (budget,) = [arguments["budget"] for kind, arguments in service.middlewares if kind is BodyLimit]
    assert budget.total == (1 << 29) // share


def test_the_folder_is_copied_without_the_files_that_tools_leave(tmp_path: Path) -> None:
    own = bento.read_custom_service(write_service(tmp_path / "service"))

    assert own.file == "hello.py"
    assert sorted(own.files) == ["greeting.py", "hello.py", "names.txt", "requirements.txt"]
    assert own.requirements == ("humanize>=4",)


def test_requirements_include_those_of_all_models_and_of_the_service(tmp_path: Path) -> None:
    own = bento.read_custom_service(write_service(tmp_path / "service"))
    first, second = log_model(tmp_path / "first", 1), log_model(tmp_path / "second", 2)

    lines = bento.service_requirements(bento.ServedModel(first, "custom", {}, own, {"second": second}))

    assert {"humanize>=4", "six>=1.1", "six>=1.2"} <= set(lines)
    assert any(line.startswith("mlflow-skinny==") for line in lines)


def test_the_description_changes_with_every_file_and_model(tmp_path: Path) -> None:
    file = write_service(tmp_path / "service")
    model = log_model(tmp_path / "first", 1)
    before = bento.make_service_description(bento.ServedModel(model, "custom", {}, bento.read_custom_service(file)))

    (file.parent / "names.txt").write_text("Ada Barbara")
    after = bento.make_service_description(bento.ServedModel(model, "custom", {}, bento.read_custom_service(file)))
    with_more = bento.make_service_description(bento.ServedModel(model, "custom", further_models={"second": model}))

    assert before != after
    assert with_more["models"] == {"second": "models:/m/1"}
    assert json.dumps(after)


@pytest.mark.parametrize(
    ("code", "said"), [(None, "does not exist"), ("def broken(:", "invalid syntax"), ("import os\n", "import bentoml")]
)
def test_an_invalid_service_is_reported_before_anything_is_built(tmp_path: Path, code: str | None, said: str) -> None:
    file = tmp_path / "service.py"
    if code is not None:
        file.write_text(code)

    with pytest.raises(InvalidOption, match=said):
        bento.read_custom_service(file)

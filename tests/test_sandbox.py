"""Smoke tests on this machine: real processes of a minimal server."""

from __future__ import annotations

import json
import platform
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import psutil
import pytest
import yaml
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlflow_fargate import bento
from mlflow_fargate.config import parse_config
from mlflow_fargate.errors import ImageError, SmokeTestFailed
from mlflow_fargate.image import Reference, Registry, Unpacked
from mlflow_fargate.image.layers.paths import SETTINGS
from mlflow_fargate.local.registry.server import LocalRegistry
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.publisher import image_inputs
from mlflow_fargate.publisher.smoke_test import make_smoke_test
from mlflow_fargate.resolved_model import ResolvedModel
from mlflow_fargate.sandbox import process as sandbox_process
from mlflow_fargate.sandbox import run_smoke_test
from mlflow_fargate.sandbox.smoke_test import Outcome
from support.base_image import seed_shared_base_image
from support.image import make_image
from support.serving_process import build

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="services run on Linux")]

ROOT = Path(__file__).parents[1]
ARCHITECTURES = {"x86_64": ("X86_64", "ARM64"), "aarch64": ("ARM64", "X86_64")}
ARCHITECTURE, OTHER_ARCHITECTURE = ARCHITECTURES.get(platform.machine(), ("X86_64", "ARM64"))
SERVER = """
import http.server, os, sys, time
sys.stderr.write(f"model in {os.environ.get('MODEL_DIR')}\\n")
if os.environ.get("MODE") == "crash":
    sys.exit("ImportError: libgomp.so.1")
if os.environ.get("MODE") == "lacks a package":
    print("Traceback …\\nModelLoadError: ModuleNotFoundError: No module named 'lightgbm'", flush=True)
    os._exit(1)
if os.environ.get("MODE") == "is killed":
    os.kill(os.getpid(), 9)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        clean = "AWS_SECRET_ACCESS_KEY" not in os.environ
        ready = self.path == "/readyz" and os.environ.get("MODE") != "never" and clean
        self.send_response(200 if ready or self.path == "/docs.json" else 503)
        self.end_headers()
        if self.path == "/docs.json":
            self.wfile.write(os.environ.get("OPENAPI", "").encode())
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        sys.stderr.write(f"POST {self.path} {body}\\n")
        self.send_response(500 if self.path == "/broken" else 200)
        if self.path == "/events":
            self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        while self.path in ("/events", "/endless"):
            self.wfile.write(b": ping\\n\\n")
            time.sleep(0.1)
        self.wfile.write(b"no column plan" if self.path == "/broken" else b"1")
http.server.HTTPServer((os.environ["BENTOML_HOST"], int(os.environ["BENTOML_PORT"])), Handler).serve_forever()
"""


def attempt(folder: Path, environment: Mapping[str, str], timeout_seconds: float = 60) -> Outcome:
    (folder / "server.py").write_text(SERVER)
    return run_smoke_test(
        ("python3", "server.py"),
        working_directory=folder,
        environment={"MARK": str(folder), **environment},
        interpreter=sys.executable,
        log=folder / "smoke-test.log",
        timeout_seconds=timeout_seconds,
    )


def processes_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARK") == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_service_that_reports_ready_passes_and_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for models")

    assert attempt(tmp_path, {}).seconds >= 0
    assert processes_of(tmp_path) == []


def test_the_error_for_a_service_that_exits_shows_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(SmokeTestFailed, match=r"(?s)exited with code 1.*libgomp\.so\.1.*hint: .*smoke_test=false"):
        attempt(tmp_path, {"MODE": "crash"})


def test_the_error_for_a_service_that_names_its_cause_shows_that_and_where_the_log_is(tmp_path: Path) -> None:
    with pytest.raises(SmokeTestFailed) as told:
        attempt(tmp_path, {"MODE": "lacks a package"})

    log = tmp_path / "smoke-test.log"
    assert str(told.value).splitlines() == [
        "Smoke test failed, so nothing was deployed: the service exited with code 1.",
        "    | ModelLoadError: ModuleNotFoundError: No module named 'lightgbm'",
        f"  Full log: {log}",
        "  hint: the model needs a package that is not in its requirements: -C requirements=lightgbm",
    ]
    assert "Traceback" in log.read_text()


def test_a_service_that_is_killed_may_have_found_this_machines_memory_full(tmp_path: Path) -> None:
    with pytest.raises(SmokeTestFailed, match=r"(?s)exited with code -9.*hint: .*this machine ran out of memory"):
        attempt(tmp_path, {"MODE": "is killed"})


def test_a_service_that_is_never_ready_fails_after_the_timeout(tmp_path: Path) -> None:
    with pytest.raises(SmokeTestFailed, match="was not ready within 2 s"):
        attempt(tmp_path, {"MODE": "never"}, timeout_seconds=2)
    assert processes_of(tmp_path) == []


def openapi_of(routes: Mapping[str, Mapping[str, Any]], required: Sequence[str] = ()) -> str:
    """Returns an OpenAPI document of routes with these inputs."""
    return json.dumps(
        {
            "paths": {
                path: {
                    "post": {
                        "requestBody": {
                            "content": {"application/json": {"schema": {"properties": fields, "required": required}}}
                        }
                    }
                }
                for path, fields in routes.items()
            }
        }
    )


def test_a_route_that_declares_examples_of_its_inputs_is_called_with_them(tmp_path: Path) -> None:
    fields = {"age": {"examples": [41, 42]}, "plan": {"type": "string", "examples": ["basic"]}, "more": {"default": 1}}
    routes = {"/score": fields, "/half": {"age": fields["age"]}, "/none": {"more": fields["more"]}}

    outcome = attempt(tmp_path, {"OPENAPI": openapi_of(routes, ["age", "plan"])})

    assert outcome.answered == ("/score",)
    called = [line for line in (tmp_path / "smoke-test.log").read_text().splitlines() if line.startswith("POST")]
    assert called == ['POST /score {"age": 41, "plan": "basic"}']


def test_one_route_with_other_examples_does_not_keep_the_others_from_being_called(tmp_path: Path) -> None:
    routes = {
        "/named": {"age": {"examples": {"one": 1}}},
        "/not-finite": {"age": {"examples": [float("nan")]}},
        "/score": {"age": {"examples": [41]}},
    }

    assert attempt(tmp_path, {"OPENAPI": openapi_of(routes)}).answered == ("/score",)


@pytest.mark.parametrize("path", ["/events", "/endless"])
def test_a_response_without_an_end_is_not_waited_for(path: str, tmp_path: Path) -> None:
    document = openapi_of({path: {"age": {"examples": [41]}}})

    assert attempt(tmp_path, {"OPENAPI": document}, timeout_seconds=3).answered == (path,)
    assert processes_of(tmp_path) == []


def test_a_route_that_fails_on_its_example_fails_the_test(tmp_path: Path) -> None:
    with pytest.raises(SmokeTestFailed) as told:
        attempt(tmp_path, {"OPENAPI": openapi_of({"/broken": {"age": {"examples": [41]}}})})

    assert "the service answered its own example for /broken with 500: no column plan." in str(told.value)
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "[" * 50_000,
        '{"paths": {"/a": 1}}',
        '{"paths": {"/a": {"post": {"requestBody": {"content": []}}}}}',
        openapi_of({"/a": {"age": {"examples": {"one": 1}}}}),
        openapi_of({"@127.0.0.1:9/a": {"age": {"examples": [1]}}}),
    ],
)
def test_a_document_that_is_none_calls_no_route(document: str, tmp_path: Path) -> None:
    assert attempt(tmp_path, {"OPENAPI": document}).answered == ()


def test_the_documented_service_answers_its_example_with_a_model_of_named_columns(tmp_path: Path) -> None:
    recipe = (ROOT / "docs" / "recipes.md").read_text().partition("\n## A custom service\n")[2]
    code = recipe.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "service.py").write_text(code)
    table = pd.DataFrame({"age": [41, 20, 60, 33], "plan": ["basic", "pro", "basic", "pro"]})
    columns = make_column_transformer((OneHotEncoder(), ["plan"]), remainder="passthrough")
    model = make_pipeline(columns, LinearRegression()).fit(table, [1.0, 2.0, 3.0, 4.0])
    mlflow.sklearn.save_model(model, tmp_path / "model", input_example=table, serialization_format="cloudpickle")
    metadata = yaml.safe_load((tmp_path / "model" / "MLmodel").read_text())
    resolved = ResolvedModel("models:/churn/1", "models:/churn/1", str(tmp_path), (), metadata)
    custom = bento.read_custom_service(tmp_path / "service" / "service.py")
    built = bento.build_bento(bento.ServedModel(resolved, "custom", {}, custom), None, tmp_path / "bento")

    outcome = run_smoke_test(
        SETTINGS["Entrypoint"],
        working_directory=built.source,
        environment={
            "MODEL_DIR": str(tmp_path / "model"),
            "PYTHONPATH": sysconfig.get_paths()["purelib"],
            "TASK_MEMORY_MIB": "2048",
        },
        interpreter=sys.executable,
        log=tmp_path / "smoke-test.log",
    )

    assert outcome.answered == ("/score",)


def test_only_the_images_packages_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("")
    with pytest.raises(SmokeTestFailed, match="No module named 'mlflow'"):
        run_smoke_test(
            ("python3", "-c", "import mlflow"),
            working_directory=tmp_path,
            environment={},
            interpreter=sys.executable,
            log=tmp_path / "smoke-test.log",
        )


READS_HOME = """
import os, sys
found = sorted(os.listdir(sys.argv[1]))
secrets = [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_TRACKING"))]
print("SEEN", found, secrets, open(sys.argv[2]).read())
sys.exit(7)
"""


def test_a_models_code_sees_neither_credentials_nor_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not sandbox_process.hides_home():
        pytest.skip("bubblewrap is not installed, or not allowed here: the home folder cannot be hidden")
    home = tmp_path / "home"
    for path, content in {".aws/credentials": "secret", "cache/model/weights": "weights", "run/x": ""}.items():
        (home / path).parent.mkdir(parents=True)
        (home / path).write_text(content)
    monkeypatch.setattr(sandbox_process, "_HOME", home)
    monkeypatch.setattr(sandbox_process, "_BWRAP", (*sandbox_process._BWRAP[:-1], str(home)))
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "secret")
    model = home / "cache" / "model"
    with pytest.raises(SmokeTestFailed, match="exited with code 7"):
        run_smoke_test(
            ("python3", "-c", READS_HOME, str(home), str(model / "weights")),
            working_directory=home / "run",
            environment={"MODEL_DIR": str(model)},
            interpreter=sys.executable,
            log=tmp_path / "smoke-test.log",
        )

    assert "SEEN ['cache', 'run'] [] weights" in (tmp_path / "smoke-test.log").read_text()


@pytest.mark.parametrize(
    ("hides", "said"), [(True, "without your credentials and home folder"), (False, "but with your home folder")]
)
def test_the_note_says_what_the_code_sees(
    hides: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_fargate.publisher.smoke_test.hides_home", lambda: hides)
    monkeypatch.setattr("mlflow_fargate.publisher.smoke_test.run_smoke_test", lambda *_, **__: Outcome(1.0, ()))
    progress = RecordedProgress()
    model = ResolvedModel("m", "m", str(tmp_path), (), {"flavors": {"python_function": {}}}, ("six",))
    config = parse_config({"requirements": "six", "architecture": ARCHITECTURE})
    smoke_test = make_smoke_test(image_inputs(model, config), config, progress)
    assert smoke_test is not None
    smoke_test(Unpacked(tmp_path, tmp_path, tmp_path / "log"), {})

    assert said in progress.lines[0]


@pytest.fixture
def inputs(tmp_path: Path) -> Any:
    service = tmp_path / "service"
    service.mkdir()
    (service / "server.py").write_text(SERVER)
    (tmp_path / "weights").write_text("1")
    with LocalRegistry(tmp_path / "registry", password=None) as server, Registry(server.address) as registry:
        seed_shared_base_image(server.store)
        minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
        yield {
            "base": Reference(server.address, "docker/library/python", f"{minor}-slim"),
            "requirements": ["six==1.17.0"],
            "python_version": minor,
            "service": service,
            "model": {"weights": tmp_path / "weights"},
            "model_key": "one",
            "destination": Reference(server.address, "models", "v1"),
            "registry": registry,
            "cache": tmp_path / "cache",
            "progress": RecordedProgress(),
        }


def test_the_layers_of_a_new_image_are_tested_once(inputs: dict[str, Any]) -> None:
    seen = []

    def smoke_test(unpacked: Unpacked, environment: Mapping[str, str]) -> None:
        site, source = environment["PYTHONPATH"].split(":")
        seen.append(((Path(site) / "six.py").exists(), (Path(source) / "server.py").exists()))
        assert (Path(environment["MODEL_DIR"]) / "weights").read_text() == "1"
        assert unpacked.working_directory == Path(source)

    first = make_image(**inputs, smoke_test=smoke_test)
    again = make_image(**{**inputs, "destination": replace(inputs["destination"], tag="v2")}, smoke_test=smoke_test)

    assert seen == [(True, True)]
    assert again.reference.digest == first.reference.digest


def test_an_image_that_fails_its_smoke_test_is_not_tagged(inputs: dict[str, Any]) -> None:
    def smoke_test(unpacked: Unpacked, environment: Mapping[str, str]) -> None:
        raise ImageError("it does not respond")

    with pytest.raises(ImageError, match="it does not respond"):
        make_image(**inputs, smoke_test=smoke_test)
    assert inputs["registry"].manifest_digest("models", "v1") is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"architecture": OTHER_ARCHITECTURE}, "the image is for linux/"),
        ({"secrets.TOKEN": "arn:aws:secretsmanager:us-east-1:1:secret:a"}, "only ECS can read"),
        ({"architecture": ARCHITECTURE}, None),
    ],
)
def test_a_smoke_test_that_cannot_run_is_skipped_with_the_reason(
    options: dict[str, Any], reason: str | None, tmp_path: Path
) -> None:
    progress = RecordedProgress()
    minor = ".".join(platform.python_version_tuple()[:2])
    metadata = {"flavors": {"python_function": {}}}
    model = ResolvedModel("m", "m", str(tmp_path), (), metadata, ("six",), python_version=minor)
    config = parse_config({"requirements": "six", **options})

    smoke_test = make_smoke_test(image_inputs(model, config), config, progress)

    assert (smoke_test is None) == (reason is not None)
    assert reason is None or reason in progress.lines[-1]


@pytest.mark.exhaustive
def test_a_real_service_predicts_its_input_example(inputs: dict[str, Any], tmp_path: Path) -> None:
    source = "import mlflow\nclass Doubler(mlflow.pyfunc.PythonModel):\n    def predict(self, context, model_input):\n"
    (tmp_path / "doubler.py").write_text(
        f"{source}        return model_input * 2\nmlflow.models.set_model(Doubler())\n"
    )
    folder = tmp_path / "model"
    example = pd.DataFrame({"x": [1.0]})
    mlflow.pyfunc.save_model(folder, python_model=str(tmp_path / "doubler.py"), input_example=example)
    packages = [
        f"bentoml=={version('bentoml')}",
        f"mlflow-skinny=={version('mlflow-skinny')}",
        "pandas<3",
        "cloudpickle",
        "httptools",
        "orjson",
    ]
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    asked = {**inputs, "requirements": packages, "service": build(folder, tmp_path), "model": files}
    seconds = []

    def smoke_test(unpacked: Unpacked, environment: Mapping[str, str]) -> None:
        took = run_smoke_test(
            unpacked.entry_point,
            working_directory=unpacked.working_directory,
            environment=environment,
            interpreter=sys.executable,
            log=unpacked.log,
        )
        seconds.append(took.seconds)

    make_image(**asked, smoke_test=smoke_test)

    assert len(seconds) == 1

"""Models of earlier MLflow releases answer as in the environment that logged them.

Each release is installed with the packages that were current when it was, by uv.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import requests

from mlflow_fargate import bento
from mlflow_fargate.config import parse_config
from mlflow_fargate.image import Platform, find_interpreter, temporary_installation
from mlflow_fargate.model import ArtifactStores, resolve_model
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.publisher.inputs import ImageInputs, image_inputs, python_of
from support.serving_process import Running, serve

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(1800)]

SCRIPT = Path(__file__).parents[1] / "support" / "older_models.py"
UV = str(Path(sys.executable).with_name("uv"))
# MLflow's release, the Pythons that it supports, the preferred one first, and the day on which its packages are chosen.
RELEASES = [
    ("1.30.0", ("3.10", "3.11"), "2022-11-15"),
    ("2.3.0", ("3.10", "3.11"), "2023-05-15"),
    ("2.14.0", ("3.11", "3.10"), "2024-07-01"),
    ("2.22.0", ("3.12", "3.11", "3.10"), "2025-06-01"),
]


@pytest.fixture(scope="module", params=RELEASES, ids=lambda release: release[0])
def logged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Returns the folder of models that the release saved, and its own answers."""
    release, pythons, day = request.param
    interpreter = next(filter(None, map(find_interpreter, pythons)), None)
    if interpreter is None:
        pytest.skip(f"MLflow {release} needs one of these, none of which is installed: Python {', '.join(pythons)}")
    folder = tmp_path_factory.mktemp("older")
    environment = folder / "environment"
    subprocess.run([UV, "venv", "-q", "--python", interpreter, environment], check=True)
    packages = [f"mlflow=={release}", "scikit-learn", "setuptools", "httpx"]
    dated = ["--exclude-newer", f"{day}T00:00:00Z"]
    subprocess.run(
        [UV, "pip", "install", "-q", "--python", environment / "bin" / "python", *dated, *packages], check=True
    )
    done = subprocess.run(
        [environment / "bin" / "python", SCRIPT, folder / "models"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "models", json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["regressor", "classifier", "pyfunc"])
def test_a_model_of_an_older_release_answers_as_it_did_there(
    logged: tuple[Path, dict[str, Any]], name: str, tmp_path: Path
) -> None:
    folder, answers = logged
    inputs = inputs_of(folder / name)

    with served(inputs, folder / name, tmp_path) as running:
        ours = [
            requests.post(f"{running.url}/invocations", json=request, timeout=60) for request, _, _ in answers[name]
        ]

    for (request, status, expected), answer in zip(answers[name], ours, strict=True):
        assert answer.status_code == status, (request, answer.text)
        if status == 200:
            assert plain(answer.json()) == plain(expected), request
    assert {status for _, status, _ in answers[name]} == {200, 400}


def inputs_of(folder: Path) -> ImageInputs:
    def no_s3() -> ArtifactStores:
        raise AssertionError("a local model needs no S3")

    stores = ArtifactStores(s3=no_s3)
    model = resolve_model(str(folder), stores=stores, progress=RecordedProgress(), tracking_uri="sqlite://")
    return image_inputs(model, parse_config({}))


@contextmanager
def served(inputs: ImageInputs, model: Path, folder: Path) -> Iterator[Running]:
    """Yields the service with the packages and the Python of the model's image."""
    python = python_of(inputs.model)
    interpreter = find_interpreter(python)
    assert interpreter
    subprocess.run([UV, "venv", "-q", "--python", interpreter, folder / "bare"], check=True)
    with temporary_installation(
        inputs.requirements,
        python_version=python,
        platform=Platform("linux", {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]),
        indexes=inputs.indexes,
        adapt=True,
        cache=folder / "cache",
    ) as installed:
        used = {name: pin.rpartition("==")[2] for name, pin in sorted(installed.pins.items())}
        shown = ("mlflow-skinny", "scikit-learn", "numpy", "pandas", "cloudpickle")
        print(f"Python {python}:", ", ".join(f"{name} {used.get(name)}" for name in shown))
        assert used["bentoml"] == version("bentoml")
        source = bento.build_bento(inputs.served, None, folder / "bento", code_only=True).source
        with serve(
            source, model, folder, python=str(folder / "bare" / "bin" / "python"), PYTHONPATH=str(installed.site)
        ) as running:
            yield running


def plain(answer: Any) -> Any:
    """Returns the predictions, floats rounded to nine digits; MLflow 1.x returned them without a key."""
    predictions = answer.get("predictions", answer) if isinstance(answer, dict) else answer
    return json.loads(json.dumps(predictions), parse_float=lambda text: float(f"{float(text):.9g}"))

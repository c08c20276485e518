"""Chooses an image's runtime: what was requested, which machines can convert, and what is reported."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlflow_fargate import bento
from mlflow_fargate.config import parse_config
from mlflow_fargate.errors import ImageError, ModelUnusable
from mlflow_fargate.progress import RecordedProgress
from mlflow_fargate.publisher import image_inputs, runtime
from mlflow_fargate.publisher.runtime import (
    NATIVE,
    Runtime,
    choose_runtime,
    refuse_or_stay_native,
    why_not_converted_here,
)
from mlflow_fargate.resolved_model import ModelFile, ResolvedModel
from mlflow_fargate.sandbox import Conversion
from mlflow_fargate.sandbox.onnx_conversion import read_verdict
from mlflow_fargate.sandbox.process import Sandbox

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
SERVER = ("httptools", "uvloop")
PINS = {
    name: f"{name}==1"
    for name in ("bentoml", "mlflow-skinny", "numpy", "onnxruntime", "orjson", "pandas", "scikit-learn", *SERVER)
}


def make_model(flavor: str = "sklearn", python: str = MINOR) -> ResolvedModel:
    return ResolvedModel(
        requested_uri="models:/churn/1",
        resolved_uri="models:/churn/1",
        artifact_uri="s3://bucket/churn",
        files=(ModelFile("requirements.txt", 20, "etag"),),
        metadata={"mlflow_version": "3.17.0", "flavors": {"python_function": {}, flavor: {}}},
        requirements=("scikit-learn==1.5.0", "mlflow==3.17.0"),
        python_version=python,
    )


def make_inputs(model: ResolvedModel | None = None, **options: Any) -> Any:
    return image_inputs(model or make_model(), parse_config(options))


def test_the_key_of_an_image_depends_on_the_requested_runtime() -> None:
    asked = [{}, {"runtime": "auto"}, {"runtime": "onnx"}, {"runtime": "onnx", "runtime_tolerance": 1e-3}]
    keys = {make_inputs(**options).key for options in asked}

    assert len(keys) == len(asked)
    assert make_inputs(runtime="native", runtime_tolerance=1e-3).key == make_inputs().key


linux = pytest.mark.skipif(sys.platform != "linux", reason="conversion needs Linux")


@pytest.mark.parametrize(
    ("model", "may_convert", "reason"),
    [
        pytest.param(make_model(), True, None, marks=linux),
        (make_model("prophet"), True, "no converter for a model of the flavors prophet, python_function"),
        (make_model(), False, r"conversion on this machine is turned off \(convert=false\)"),
        pytest.param(
            make_model(python="3.10.99" if MINOR != "3.10" else "3.13"),
            True,
            "which the model needs, is not installed here",
            marks=linux,
        ),
    ],
)
def test_the_reason_why_this_machine_cannot_convert_is_reported(
    model: ResolvedModel, may_convert: bool, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "find_interpreter", lambda minor: sys.executable if minor == MINOR else None)

    found = why_not_converted_here(make_inputs(model, runtime="auto"), may_convert=may_convert)

    assert (found is None) == (reason is None)
    if reason is not None:
        with pytest.raises(ModelUnusable, match=f"cannot be served by ONNX Runtime: .*{reason}"):
            refuse_or_stay_native(make_inputs(model, runtime="onnx"), str(found), RecordedProgress())


def test_a_custom_service_is_not_converted(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text("import bentoml\n")
    inputs = make_inputs(service=str(tmp_path / "service.py"), runtime="auto")

    assert why_not_converted_here(inputs, may_convert=True) == "a custom service loads its models itself"


def test_auto_reports_why_it_stays_native() -> None:
    progress = RecordedProgress()

    refuse_or_stay_native(make_inputs(runtime="auto"), "answers differ", progress)

    assert progress.lines[-1].strip().endswith("runtime: native, because answers differ")


@pytest.fixture
def converting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The arguments of the steps below, and their results."""
    seen: dict[str, Any] = {"conversion": Conversion(True, "answers differ by 1e-9 at most")}

    class Installed:
        def __init__(self, requirements: Any, **_: Any) -> None:
            seen["requirements"] = requirements

        def __enter__(self) -> Any:
            if "error" in seen:
                raise seen["error"]
            return SimpleNamespace(site=tmp_path, pins=PINS)

        def __exit__(self, *_: object) -> None:
            return None

    def convert(model_dir: Path, into: Path, **arguments: Any) -> Conversion:
        seen["arguments"] = arguments
        for name in ("MLmodel", "model.onnx", "onnx_answer.json", "left.behind"):
            (into / name).write_text(name)
        if not (link := into / "serving_input_example.json").is_symlink():
            link.symlink_to("/etc/passwd")
        return seen["conversion"]

    monkeypatch.setattr(runtime, "temporary_installation", Installed)
    monkeypatch.setattr(runtime, "convert_model", convert)
    return seen


def choose(tmp_path: Path, **options: Any) -> tuple[Runtime, RecordedProgress]:
    progress = RecordedProgress()
    return choose_runtime(make_inputs(**options), tmp_path / "model", tmp_path, tmp_path, progress), progress


def test_an_equal_model_is_served_by_onnx_runtime_with_the_versions_it_was_compared_with(
    converting: dict[str, Any], tmp_path: Path
) -> None:
    chosen, progress = choose(tmp_path, runtime="auto", runtime_tolerance=1e-4, requirements="pyarrow==20")

    assert "skl2onnx" in " ".join(converting["requirements"])
    assert "scikit-learn==1.5.0" in converting["requirements"]
    assert converting["arguments"]["tolerance"] == 1e-4
    assert chosen.is_onnx
    assert sorted(chosen.files) == ["MLmodel", "model.onnx", "onnx_answer.json"]  # neither links nor what else is there
    assert chosen.requirements == (
        "bentoml==1",
        "numpy==1",
        "onnxruntime==1",
        "mlflow-skinny==1",
        "pandas==1",
        "orjson==1",
        "httptools==1",
        "uvloop==1",
        "pyarrow==20",
    )
    assert chosen.labels == {
        "mlflow-fargate.runtime": "onnx",
        "mlflow-fargate.runtime-reason": "answers differ by 1e-9 at most",
    }
    applied = chosen.applied_to(make_inputs(runtime="auto"))
    assert (applied.requirements, applied.served.options) == (chosen.requirements, {"runtime": "onnx"})
    assert "runtime: onnx" in progress.lines[-1]


def test_a_different_converted_model_is_a_different_layer(converting: dict[str, Any], tmp_path: Path) -> None:
    chosen, _ = choose(tmp_path, runtime="onnx")
    before = chosen.converted(make_model())
    (tmp_path / "model.onnx").write_text("other")

    after = chosen.converted(make_model())
    assert before
    assert after
    assert after.key != before.key


def test_a_model_with_different_predictions_stays_native_or_is_refused(
    converting: dict[str, Any], tmp_path: Path
) -> None:
    converting["conversion"] = Conversion(False, "answers differ by 0.5, more than 1e-05")

    chosen, progress = choose(tmp_path, runtime="auto")

    assert (chosen.name, chosen.reason, dict(chosen.files)) == ("native", "answers differ by 0.5, more than 1e-05", {})
    assert chosen.applied_to(make_inputs(runtime="auto")) == make_inputs(runtime="auto")
    assert "runtime: native, because answers differ by 0.5" in progress.lines[-1]
    with pytest.raises(ModelUnusable, match=r"answers differ by 0\.5, more than 1e-05.*\n  hint: runtime=auto"):
        choose(tmp_path, runtime="onnx")


def test_converters_that_conflict_with_the_model_are_a_reason(converting: dict[str, Any], tmp_path: Path) -> None:
    converting["error"] = ImageError("The requirements cannot be met for Python 3.11")

    chosen, progress = choose(tmp_path, runtime="auto")

    assert not chosen.is_onnx
    assert "conflict with the model's requirements (The requirements cannot be met" in progress.lines[-1]


def test_without_a_choice_there_are_no_labels() -> None:
    assert NATIVE.labels == {}


def test_a_picture_needs_no_mlflow() -> None:
    served = bento.ServedModel(make_model("tensorflow"), "image_classifier")

    lines = bento.onnx_requirements(served, {**PINS, "pillow": "pillow==1"}, ())

    assert lines == ("bentoml==1", "numpy==1", "onnxruntime==1", "pillow==1", "httptools==1", "uvloop==1")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{}", b"7", b"\xff", b'{"is_equal": true}', b""])
def test_a_model_that_writes_the_converters_result_itself_stays_native(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "verdict.json").write_bytes(content)
    sandbox = Sandbox(tmp_path, Path(sys.executable), tmp_path / "log")

    assert not read_verdict(tmp_path, sandbox, 0).is_equal

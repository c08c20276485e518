"""Converts a model to ONNX if the predictions match, by running the scripts of onnx_converter/ in a sandbox.

The converters are installed only there, together with the packages in the model's requirements: a pickled model can be
loaded only with the packages it was pickled with.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_fargate.resolved_model import printable
from mlflow_fargate.sandbox.process import Sandbox, last_lines, opened_sandbox

TIMEOUT_SECONDS = 900.0
# The libraries that onnx_converter/libraries.py imports, by the flavor they convert.
_CONVERTERS: Mapping[str, tuple[str, ...]] = {
    "tensorflow": ("tf2onnx>=1.17",),
    "keras": ("tf2onnx>=1.17",),
    "sklearn": ("skl2onnx>=1.18",),
    "xgboost": ("onnxmltools>=1.13", "skl2onnx>=1.18"),
    "lightgbm": ("onnxmltools>=1.13", "skl2onnx>=1.18"),
}
_REASON_CHARACTERS = 300
RUNTIME = "onnxruntime>=1.20"


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion."""

    is_equal: bool
    reason: str


def converter_requirements(flavors: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what conversion needs besides the model's packages; () if no converter supports these flavors."""
    found = next((_CONVERTERS[flavor] for flavor in _CONVERTERS if flavor in flavors), ())
    return (*found, RUNTIME) if found else ()


def convert_model(
    model_dir: Path,
    into: Path,
    *,
    template: str,
    tolerance: float,
    packages: Path,
    service_template: Path,
    interpreter: str,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Conversion:
    """Converts and compares; if equal, `into` contains what the service loads instead of `model_dir`.

    `packages` contains the model's packages and the converters. Runs the model's code.
    """
    job = {"model_dir": str(model_dir), "into": str(into), "template": template, "tolerance": tolerance}
    with opened_sandbox(interpreter) as sandbox:
        file = sandbox.folder / "job.json"
        file.write_text(json.dumps(job), encoding="utf-8")
        environment = {
            "PYTHONPATH": os.pathsep.join((str(packages), str(service_template))),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        arguments = [str(converter_folder() / "convert.py"), str(file)]
        folders = (model_dir, into, converter_folder())
        with sandbox.running(
            arguments, working_directory=sandbox.folder, environment=environment, folders=folders
        ) as process:
            try:
                process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                return Conversion(False, f"the conversion did not finish within {timeout_seconds:.0f} s")
        return read_verdict(into, sandbox, process.returncode)


def converter_folder() -> Path:
    """Returns the folder of the scripts: inside the package once installed, next to it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "onnx_converter"
    return inside if inside.is_dir() else package.parent / "onnx_converter"


def read_verdict(into: Path, sandbox: Sandbox, exit_code: int) -> Conversion:
    """Returns what the converter wrote, which is hostile."""
    verdict = into / "verdict.json"
    if exit_code or not verdict.is_file():
        said = "".join(last_lines(sandbox.log)[-1:]).strip()[:_REASON_CHARACTERS]
        return Conversion(False, f"the conversion failed with exit code {exit_code}: {said}")
    # Written by a process that ran the model's code, and shown in labels and on terminals.
    try:
        document = json.loads(verdict.read_text(encoding="utf-8"))
        verdict.unlink()
        return Conversion(document["is_equal"] is True, printable(str(document["reason"]), _REASON_CHARACTERS))
    except (ValueError, TypeError, KeyError, RecursionError):
        return Conversion(False, "the conversion did not write a valid result")

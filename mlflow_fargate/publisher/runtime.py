"""Chooses what runs the model in an image: the library it was trained with, or ONNX Runtime if the predictions match.

A model is converted only with `runtime=auto` or `runtime=onnx`, because conversion loads the model on this machine and
a model is code. If this machine cannot convert it, the image keeps the tag of a native image, so another machine can.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from mlflow_fargate import bento
from mlflow_fargate.errors import ImageError, ModelUnusable
from mlflow_fargate.image import Model, Platform, find_interpreter, temporary_installation
from mlflow_fargate.progress import Progress
from mlflow_fargate.publisher.inputs import ImageInputs, python_of
from mlflow_fargate.resolved_model import ResolvedModel
from mlflow_fargate.sandbox import convert_model, converter_requirements

RUNTIME = "mlflow-fargate.runtime"
RUNTIME_REASON = "mlflow-fargate.runtime-reason"
# The files that the conversion writes; the model's code runs there and can write others.
_FILES = ("MLmodel", "serving_input_example.json", "model.onnx", "onnx_answer.json")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Runtime:
    """The chosen runtime, and the reason for it."""

    name: str  # native or onnx
    reason: str
    requirements: tuple[str, ...] = ()  # of the image, if the model is converted
    files: Mapping[str, Path] = field(default_factory=dict, hash=False)  # of the converted model

    @property
    def is_onnx(self) -> bool:
        return self.name == "onnx"

    @property
    def labels(self) -> dict[str, str]:
        """Labels for the image's configuration and manifest, if there was a choice of runtimes."""
        return {RUNTIME: self.name, RUNTIME_REASON: self.reason} if self.reason else {}

    def converted(self, model: ResolvedModel) -> Model | None:
        """Returns the converted model and a key that changes when it or the original does; None if not converted."""
        if not self.files:
            return None
        contents = (name.encode() + b"\0" + path.read_bytes() for name, path in sorted(self.files.items()))
        digest = sha256(b"".join(sha256(content).digest() for content in contents)).hexdigest()[:16]
        return Model(self.files, f"{model.fingerprint}-{digest}", f"model {model.title}, converted to ONNX")

    def applied_to(self, inputs: ImageInputs) -> ImageInputs:
        """Returns the image's inputs with this runtime."""
        if not self.is_onnx:
            return inputs
        served = replace(inputs.served, options={**inputs.served.options, "runtime": "onnx"})
        return replace(inputs, requirements=self.requirements, served=served)


NATIVE = Runtime("native", "")  # the default


def why_not_converted_here(inputs: ImageInputs, *, may_convert: bool) -> str | None:
    """Returns why this machine cannot convert the model, or None if it can."""
    if inputs.served.custom_service is not None:
        return "a custom service loads its models itself"
    if not converter_requirements(inputs.model.flavors):
        return f"there is no converter for a model of the flavors {', '.join(sorted(inputs.model.flavors))}"
    if not may_convert:
        return "conversion on this machine is turned off (convert=false)"
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        needed = f"Linux on {' or '.join(_ARCHITECTURES)}"
        return f"conversion needs {needed}; this machine is {platform.system()} on {platform.machine()}"
    if find_interpreter(python_of(inputs.model)) is None:
        return f"Python {python_of(inputs.model)}, which the model needs, is not installed here"
    return None


def refuse_or_stay_native(inputs: ImageInputs, reason: str, progress: Progress) -> None:
    """Raises ModelUnusable if ONNX was required; otherwise reports why it is not used."""
    if inputs.runtime == "onnx":
        raise ModelUnusable(
            f"{inputs.model.requested_uri} cannot be served by ONNX Runtime: {reason}.",
            hint="runtime=auto falls back to the model's own library; runtime=native skips the conversion",
        )
    progress.note(f"runtime: native, because {reason}")


def choose_runtime(inputs: ImageInputs, model_dir: Path, into: Path, cache: Path, progress: Progress) -> Runtime:
    """Converts the model and compares predictions; raises ModelUnusable if ONNX was required and they differ."""
    interpreter = find_interpreter(python_of(inputs.model))
    assert interpreter is not None  # noqa: S101  # see why_not_converted_here
    progress.note("converting the model to ONNX here and comparing predictions (skip with runtime=native)")
    try:
        with temporary_installation(
            (*inputs.requirements, *converter_requirements(inputs.model.flavors)),
            python_version=python_of(inputs.model),
            platform=Platform("linux", _ARCHITECTURES[platform.machine()]),
            indexes=inputs.indexes,
            adapt=inputs.normalize,
            cache=cache,
        ) as installed:
            found = convert_model(
                model_dir,
                into,
                template=inputs.served.template,
                tolerance=inputs.runtime_tolerance,
                packages=installed.site,
                service_template=bento.template_folder(),
                interpreter=interpreter,
            )
            requirements = bento.onnx_requirements(inputs.served, installed.pins, inputs.requirements)
    except ImageError as error:
        first_line = str(error).splitlines()[0]
        reason = "the ONNX converter packages conflict with the model's requirements"
        refuse_or_stay_native(inputs, f"{reason} ({first_line})", progress)
        return Runtime("native", reason)
    if not found.is_equal:
        refuse_or_stay_native(inputs, found.reason, progress)
        return Runtime("native", found.reason)
    progress.note(f"runtime: onnx, because {found.reason}")
    files = {name: into / name for name in _FILES if (into / name).is_file() and not (into / name).is_symlink()}
    return Runtime("onnx", found.reason, requirements, files)

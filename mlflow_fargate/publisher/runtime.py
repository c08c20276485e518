"""What computes in an image: the library that its model was trained with, or ONNX Runtime if that answers the same.

Only what was asked for by `runtime=auto` or `runtime=onnx` is converted: that loads the model on this machine, and a
model is code. What cannot be converted here keeps the tag of a native image, so that another machine may still do it.
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
from mlflow_fargate.image import Platform, find_interpreter, installed_packages
from mlflow_fargate.progress import Progress
from mlflow_fargate.publisher.inputs import ImageInputs, python_of
from mlflow_fargate.sandbox import convert_model, converter_requirements

RUNTIME = "mlflow-fargate.runtime"
RUNTIME_REASON = "mlflow-fargate.runtime-reason"
# What the conversion writes; a model's code runs there, and may write more.
_FILES = ("MLmodel", "serving_input_example.json", "model.onnx", "onnx_answer.json")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Runtime:
    """What was chosen, and why."""

    name: str  # native or onnx
    reason: str
    requirements: tuple[str, ...] = ()  # of the image with the converted model
    files: Mapping[str, Path] = field(default_factory=dict, hash=False)  # of the converted model

    @property
    def is_onnx(self) -> bool:
        return self.name == "onnx"

    @property
    def labels(self) -> dict[str, str]:
        """For the image's configuration and its manifest, where there was something to choose."""
        return {RUNTIME: self.name, RUNTIME_REASON: self.reason} if self.reason else {}

    @property
    def files_digest(self) -> str:
        """Changes when the converted model does."""
        contents = (name.encode() + b"\0" + path.read_bytes() for name, path in sorted(self.files.items()))
        return sha256(b"".join(sha256(content).digest() for content in contents)).hexdigest()[:16]

    def applied_to(self, inputs: ImageInputs) -> ImageInputs:
        """What goes into the image with this runtime."""
        if not self.is_onnx:
            return inputs
        return replace(inputs, requirements=self.requirements, options={**inputs.options, "runtime": "onnx"})


NATIVE = Runtime("native", "")  # as it is where nothing else was asked for


def why_not_converted_here(inputs: ImageInputs, *, may_convert: bool) -> str | None:
    """What speaks against trying on this machine; None when nothing does."""
    if inputs.own is not None:
        return "a service of one's own loads its models itself"
    if not converter_requirements(inputs.model.flavors):
        return f"nothing converts a model of the flavors {', '.join(sorted(inputs.model.flavors))}"
    if not may_convert:
        return "the model is not to be converted on this machine (convert=false)"
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        return f"models are converted on Linux, and this machine is {platform.system()} on {platform.machine()}"
    if find_interpreter(python_of(inputs.model)) is None:
        return f"there is no Python {python_of(inputs.model)} here to load the model with"
    return None


def refuse_or_stay_native(inputs: ImageInputs, reason: str, progress: Progress) -> None:
    """ModelUnusable where ONNX was demanded; else says why it is not used."""
    if inputs.runtime == "onnx":
        raise ModelUnusable(
            f"{inputs.model.requested_uri} cannot be served by ONNX Runtime: {reason}.",
            hint="runtime=auto serves it with its own library then, runtime=native does not try",
        )
    progress.note(f"runtime: native, because {reason}")


def choose_runtime(inputs: ImageInputs, model_dir: Path, into: Path, cache: Path, progress: Progress) -> Runtime:
    """Converts the model in `model_dir`, and compares; ModelUnusable where ONNX was demanded and is not equal."""
    interpreter = find_interpreter(python_of(inputs.model))
    assert interpreter is not None  # noqa: S101  # see why_not_converted_here
    progress.note("converting the model to ONNX on this machine, and comparing the two (runtime=native: not)")
    try:
        with installed_packages(
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
                template=inputs.template,
                tolerance=inputs.runtime_tolerance,
                packages=installed.site,
                service_template=bento.template_folder(),
                interpreter=interpreter,
            )
            requirements = bento.onnx_requirements(inputs.template, inputs.model, installed.pins, inputs.requirements)
    except ImageError as error:
        first_line = str(error).splitlines()[0]
        refuse_or_stay_native(inputs, f"the converters do not go with its requirements ({first_line})", progress)
        return Runtime("native", "the converters do not go with its requirements")
    if not found.is_equal:
        refuse_or_stay_native(inputs, found.reason, progress)
        return Runtime("native", found.reason)
    progress.note(f"runtime: onnx, because {found.reason}")
    files = {name: into / name for name in _FILES if (into / name).is_file() and not (into / name).is_symlink()}
    return Runtime("onnx", found.reason, requirements, files)

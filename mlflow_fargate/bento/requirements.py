"""What a service needs installed: the lines of its models, with those of the template. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version as installed_version

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mlflow_fargate.bento.custom_service_files import CustomService
from mlflow_fargate.resolved_model import ResolvedModel

# Nothing needs them: with them the server reads requests and waits for them in C, with a third less CPU for each.
_SERVER = ("httptools>=0.6", "uvloop>=0.19")
# What serves a model beside ONNX Runtime: pictures, or MLflow's protocol.
_ONNX_PACKAGES = {"image": ("pillow",), "table": ("mlflow-skinny", "pandas")}
# Older versions answer requests with other code than service_template is written for; newer ones load their models.
_MLFLOW_FLOOR = Version("3.1")


def service_requirements(
    template: str,
    model: ResolvedModel,
    *,
    own: CustomService | None = None,
    further_models: Mapping[str, ResolvedModel] | None = None,
) -> tuple[str, ...]:
    """Requirement lines of the image: the model's own, with BentoML and what the template needs.

    MLflow itself is half a gigabyte that serving does not touch: an image classifier needs none of it, a pyfunc needs
    `mlflow-skinny`. A line that asks for more than the plain package (`mlflow[extras]`, a URL) is kept as it is.
    """
    models = (model, *(further for _, further in sorted((further_models or {}).items())))
    given = dict.fromkeys(line for one in models for line in one.requirements)
    lines = [line for line in (*given, *(own.requirements if own else ())) if _package(line) != "mlflow-skinny"]
    if template == "image_classifier":
        ours = ["pillow>=10"]
        lines = [line for line in lines if _package(line) != "mlflow"]
    else:
        ours = ["pandas<4"]
        if not any(_package(line) == "mlflow" and not _is_plain(line) for line in lines):
            ours.append(f"mlflow-skinny=={_mlflow_version(model)}")
            lines = [line for line in lines if _package(line) != "mlflow"]
    # The service is tried with this version of BentoML, whatever version the model was trained beside.
    lines = [line for line in lines if _package(line) != "bentoml"]
    packages = {_package(line) for line in lines}
    ours = [line for line in (*ours, *_SERVER) if _package(line) not in packages]
    return tuple(dict.fromkeys([*lines, f"bentoml=={installed_version('bentoml')}", *ours]))


def onnx_requirements(
    template: str, model: ResolvedModel, pins: Mapping[str, str], asked: tuple[str, ...]
) -> tuple[str, ...]:
    """Requirement lines of the image in which ONNX Runtime computes for `model`, of the versions it was compared with.

    `pins` (package → NAME==VERSION) are those; of the lines that were `asked` for, those that are not the model's own
    and no template's stay: somebody named them for a reason.
    """
    needed = (
        "bentoml",
        "numpy",
        "onnxruntime",
        *_ONNX_PACKAGES["image" if template == "image_classifier" else "table"],
    )
    known = {*map(_package, service_requirements(template, model)), *needed}
    further = [line for line in asked if _package(line) not in known]
    return (*(pins[name] for name in needed if name in pins), *further)


def _mlflow_version(model: ResolvedModel) -> str:
    """The version that logged the model, if the service can run with it; else the one installed here."""
    here = installed_version("mlflow-skinny")
    try:
        logged = Version(str(model.metadata.get("mlflow_version", "")))
    except InvalidVersion:
        return here
    return here if logged < _MLFLOW_FLOOR or logged.is_prerelease else str(logged)


def _package(line: str) -> str | None:
    """The package a requirement line is about; None for options, paths and what else pip reads."""
    try:
        return canonicalize_name(Requirement(line).name)
    except InvalidRequirement:
        return None


def _is_plain(line: str) -> bool:
    requirement = Requirement(line)
    return not requirement.extras and requirement.url is None

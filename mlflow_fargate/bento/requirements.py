"""What a service needs installed: the requirement lines of its models and of the template. Pure."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import version as installed_version

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mlflow_fargate.bento.description import ServedModel
from mlflow_fargate.requirement_files import CONSTRAINT, is_constraint, without_hashes
from mlflow_fargate.resolved_model import ResolvedModel

# They parse HTTP and run the event loop in C, which takes a third less CPU per request. The service limits headers with
# httptools' callbacks, so it does not start without it.
_SERVER = ("httptools>=0.6", "uvloop>=0.19")
# It reads a table in JSON in a tenth of the time.
_TABLES = ("orjson>=3.11.6",)
# What a service needs besides ONNX Runtime, for images or for MLflow's protocol.
_ONNX_PACKAGES = {"image": ("pillow",), "table": ("mlflow-skinny", "pandas", "orjson")}
# Earlier versions have known flaws, as in the decoder of JPEG (before 13.0), and an image classifier decodes what
# strangers send, so a model's older pin does not count. 12.3 is the last for Python 3.10.
# https://pillow.readthedocs.io/en/stable/releasenotes/
_PILLOW_FLOOR, _PILLOW_FLOOR_OF_310 = Version("13.0"), Version("12.3")
# service_template does not support older versions; newer versions can load models that these logged.
_MLFLOW_FLOOR = Version("3.1")
# What MLflow's releases before the given one required. The later lines are the stricter ones.
# Source: `Requires-Dist` of MLflow's releases on PyPI.
_BOUNDS = (
    (Version("3.16"), "pandas<3"),
    (Version("2.16"), "numpy<2"),
    (Version("2.2"), "pandas<2"),
)


def service_requirements(served: ServedModel, further: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Returns the image's requirement lines: the model's, BentoML, what the template needs, and the user's `further`.

    MLflow itself is half a gigabyte that serving does not use: an image classifier needs none of it, a pyfunc needs
    `mlflow-skinny`. A line that requests more than the plain package (`mlflow[extras]`, a URL) is kept as it is.
    """
    models = (served.model, *(further for _, further in sorted(served.further_models.items())))
    given = dict.fromkeys(line for one in models for line in one.requirements)
    custom = served.custom_service.requirements if served.custom_service else ()
    limits = [line for line in (*given, *custom) if is_constraint(line)]
    lines = [line for line in (*given, *custom) if _package(line) != "mlflow-skinny" and line not in limits]
    replaced = {_package(line) for line in further if not _is_any_version(line)} - {None}
    lines = [kept for line in lines if (kept := _extras_of(line) if _package(line) in replaced else line)]
    newest = _newest_versions(models)
    if served.template == "image_classifier":
        ours = [bound for bound in newest if bound.startswith("numpy")]
        floor = _pillow_floor(served.model)
        lines = [line for line in lines if _package(line) != "mlflow" and not _is_old_pillow(line, floor)]
        lines.append(f"pillow>={floor}")
    else:
        ours = list(newest)
        if not any(_package(line) == "mlflow" and not _is_plain(line) for line in lines):
            ours.append(f"mlflow-skinny=={_mlflow_version(served.model)}")
            lines = [line for line in lines if _package(line) != "mlflow"]
    # The service is tested with this version of BentoML, whichever version was installed for training.
    lines = [line for line in lines if _package(line) != "bentoml"]
    stated = [line for line in (*lines, *further) if not _is_any_version(line)]
    ours += _TABLES if served.template == "pyfunc" else ()
    ours = [line for line in (*ours, *_SERVER) if not any(_overrides(other, line) for other in stated)]
    # Nor do the limits of the model's constraints files count for what is chosen here, or by the user.
    chosen = {
        *replaced,
        "bentoml",
        "mlflow",
        "mlflow-skinny",
        *(["pillow"] if served.template == "image_classifier" else ()),
    }
    limits = [line for line in limits if _package(without_hashes(line.removeprefix(CONSTRAINT))[0]) not in chosen]
    return tuple(dict.fromkeys([*lines, f"bentoml=={installed_version('bentoml')}", *ours, *further, *limits]))


def replaced_requirements(served: ServedModel) -> tuple[str, ...]:
    """Returns the model's lines that are not used, because they require a version with known flaws."""
    floor = _pillow_floor(served.model)
    old = (line for line in served.model.requirements if _is_old_pillow(line, floor))
    return tuple(old) if served.template == "image_classifier" else ()


def onnx_requirements(served: ServedModel, pins: Mapping[str, str], asked: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the requirement lines of an ONNX Runtime image, in the versions that the model was compared with.

    `pins` maps each package to its NAME==VERSION. Of the lines in `asked`, those that come from neither the model nor a
    template are kept: the user added them for a reason.
    """
    needed = (
        "bentoml",
        "numpy",
        "onnxruntime",
        *_ONNX_PACKAGES["image" if served.template == "image_classifier" else "table"],
        *(Requirement(line).name for line in _SERVER),
    )
    known = {*map(_package, service_requirements(served)), *needed}
    further = [line for line in asked if _package(line) not in known]
    return (*(pins[name] for name in needed if name in pins), *further)


def _mlflow_version(model: ResolvedModel) -> str:
    """Returns the version that logged the model if the service supports it, else the one installed here."""
    logged = _logged_with(model)
    is_supported = logged is not None and logged >= _MLFLOW_FLOOR and not logged.is_prerelease
    return str(logged) if is_supported else installed_version("mlflow-skinny")


def _newest_versions(models: Iterable[ResolvedModel]) -> list[str]:
    """Returns the bounds that MLflow itself required when it logged the oldest of the models.

    MLflow does not write pandas, and often not NumPy, into a model's requirements, because it brings them itself.
    """
    oldest = min((version for model in models if (version := _logged_with(model))), default=None)
    bounds = {"pandas": "pandas<4"}
    for before, bound in _BOUNDS:
        if oldest is not None and oldest < before:
            bounds[bound.partition("<")[0]] = bound
    return list(bounds.values())


def _logged_with(model: ResolvedModel) -> Version | None:
    """Returns the MLflow release that logged the model; releases before 1.26 only pin themselves."""
    pins = (line.partition("==")[2] for line in model.requirements if _package(line) in ("mlflow", "mlflow-skinny"))
    for stated in (model.metadata.get("mlflow_version"), *pins):
        with suppress(InvalidVersion):
            return Version(str(stated))
    return None


def _extras_of(line: str) -> str | None:
    """Returns a line without what the user's own line for the package says instead; None: nothing is left."""
    requirement = Requirement(line)
    return f"{requirement.name}[{','.join(sorted(requirement.extras))}]" if requirement.extras else None


def _is_any_version(line: str) -> bool:
    """Returns whether a line names a package without saying which version."""
    return _package(line) is not None and not Requirement(line).specifier and Requirement(line).url is None


def _overrides(stated: str, ours: str) -> bool:
    """Returns whether a line replaces a bound: it names the same package, which it pins or allows only in later
    versions, so the bound cannot be added."""
    if _package(stated) != _package(ours):
        return False
    requirement, limit = Requirement(stated), ours.partition("<")[2]
    if requirement.url or not limit or any(one.operator in ("==", "===") for one in requirement.specifier):
        return True
    last = Version(f"{Version(limit).major - 1}.9999")
    named = [Version(one.version.removesuffix(".*")) for one in requirement.specifier]
    return not any(requirement.specifier.contains(one, prereleases=True) for one in (*named, last) if one <= last)


def _pillow_floor(model: ResolvedModel) -> Version:
    return _PILLOW_FLOOR_OF_310 if (model.python_version or "").startswith("3.10") else _PILLOW_FLOOR


def _is_old_pillow(line: str, floor: Version) -> bool:
    """Returns whether the line permits only versions below the floor."""
    if _package(line) != "pillow" or (requirement := Requirement(line)).url:
        return False
    named = [Version(one.version.removesuffix(".*")) for one in requirement.specifier if one.operator != "==="]
    candidates = [one for one in (*named, floor, Version("9999")) if one >= floor]
    return not any(requirement.specifier.contains(one, prereleases=True) for one in candidates)


@functools.lru_cache(4096)
def _package(line: str) -> str | None:
    """Returns the package that a requirement line names; None for options, paths and other lines that pip reads."""
    try:
        return canonicalize_name(Requirement(line).name)
    except InvalidRequirement:
        return None


def _is_plain(line: str) -> bool:
    requirement = Requirement(line)
    return not requirement.extras and requirement.url is None

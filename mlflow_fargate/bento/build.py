"""How a model is served, and the Bento that is made of that.

`choose_template` decides, `make_service_description` and `service_requirements` say so to the image (all pure),
`build_bento` writes. The only home of bentoml. The models' files are no part of the Bento: the image lays them out as
layers of their own, which saves a copy of what may be gigabytes, and leaves the service layer at a few kilobytes when a
new version of the model comes.

BentoML builds in a process of its own: it changes the working directory, keeps the modules it imports (`service`, a
name others use too) and reads its home directory once at import. None of that is for the process of a notebook or of
the webhook service.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version as installed_version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mlflow_fargate.bento.own_files import OwnService
from mlflow_fargate.deployment import ResolvedModel, without_credentials
from mlflow_fargate.errors import ImageError, ModelUnusable

Template = Literal["image_classifier", "pyfunc", "own"]

LABELS_FILE = "labels.json"
_DESCRIPTION_FILE = "service.json"
_OWN_FOLDER = "own"
_IMAGE_CHANNELS = (1, 3, 4)
_NETWORK_FLAVORS = ("tensorflow", "keras")
_BUILD_TIMEOUT_SECONDS = 300
# Nothing needs them: with them the server reads requests and waits for them in C, with a third less CPU for each.
_SERVER = ("httptools>=0.6", "uvloop>=0.19")
# What serves a model beside ONNX Runtime: pictures, or MLflow's protocol.
_ONNX_PACKAGES = {"image": ("pillow",), "table": ("mlflow-skinny", "pandas")}
# Older versions answer requests with other code than service_template is written for; newer ones load their models.
_MLFLOW_FLOOR = Version("3.1")


@dataclass(frozen=True)
class Bento:
    """A built Bento on disk."""

    tag: str  # NAME:VERSION; the version is a digest of what is in it
    path: Path
    source: Path  # what lies at /opt/app/src in the image
    requirements: tuple[str, ...]  # what the image must install


def choose_template(model: ResolvedModel) -> Template:
    """How `model` is served: as an image classifier when it is a Keras or TensorFlow model with a labels file.

    A signature, where there is one, must then be a batch of images (-1, height, width, channels).
    """
    conf = _network_conf(model)
    if conf is None or model.labels_uri is None or conf.get("keras_backend", "tensorflow") != "tensorflow":
        return "pyfunc"
    return "image_classifier" if _takes_images(model) else "pyfunc"


def make_service_description(
    template: str,
    model: ResolvedModel,
    options: Mapping[str, Any] | None = None,
    *,
    own: OwnService | None = None,
    further_models: Mapping[str, ResolvedModel] | None = None,
) -> dict[str, Any]:
    """What service.json says: which models the service answers for, and how; `options` are the template's own."""
    own_options = {"file": own.file, "digest": own.digest} if own else {}
    return {
        "template": template,
        "flavor": next((name for name in sorted(model.flavors) if name != "python_function"), "python_function"),
        "model": {
            "name": model.name,
            "version": model.version,
            "run_id": model.run_id,
            "uri": model.resolved_uri,
        },
        "labels": LABELS_FILE if template == "image_classifier" else None,
        "options": {**(options or {}), **own_options},
        "models": {key: further.resolved_uri for key, further in sorted((further_models or {}).items())},
    }


def service_requirements(
    template: str,
    model: ResolvedModel,
    *,
    own: OwnService | None = None,
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


def parse_labels(content: bytes) -> dict[str, Any]:
    """Labels by class number ("0", "1", …) from a labels file; ModelUnusable when it is none.

    Read are {"0": "buildings", …}, {"buildings": 0, …} and ["buildings", …].
    """
    try:
        document = json.loads(content)
    except ValueError as error:
        raise ModelUnusable(f"The labels file is not valid JSON: {error}") from error
    if isinstance(document, list):
        document = dict(enumerate(document))
    if isinstance(document, dict) and document and not _has_class_numbers(document):
        document = {number: name for name, number in document.items() if type(number) is int}
    labels = {str(number): label for number, label in document.items()} if isinstance(document, dict) else {}
    if sorted(labels) != sorted(str(number) for number in range(len(labels))) or not labels:
        raise ModelUnusable(
            "The labels file does not name the classes 0, 1, 2 … one by one.",
            hint='write it as {"0": "first label", "1": "second label"}',
        )
    return labels


def build_bento(
    model: ResolvedModel,
    template: str,
    labels: bytes | None,
    into: Path,
    *,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    own: OwnService | None = None,
    further_models: Mapping[str, ResolvedModel] | None = None,
    requirements: tuple[str, ...] = (),
    code_only: bool = False,
) -> Bento:
    """A Bento in the Bento store `into`; what is there already with the same content is not built again.

    `code_only`: of the Bento only its `source` is made, the same bytes, without the seconds in which BentoML imports
    itself and the service. That finds mistakes in a service of one's own, and none in a template.

    `labels` is the content of the labels file, which an image classifier must have; `name` is by default the model's,
    and so are the `requirements`.
    The bytes in `source` depend on nothing but the arguments and the versions of this package and of BentoML.
    ImageError says why BentoML refused.
    """
    requirements = requirements or service_requirements(template, model, own=own, further_models=further_models)
    description = make_service_description(template, model, options, own=own, further_models=further_models)
    files = _source_files(description, model, labels, requirements)
    if own:
        files |= {f"{_OWN_FOLDER}/{file_name}": content for file_name, content in own.files.items()}
    tag_name, tag_version = _tag_name(name or model.name or "model"), _digest(files)
    path = into.absolute() / "bentos" / tag_name / tag_version
    if code_only:
        _write(files, path / "src")
    elif not (path / "bento.yaml").is_file():
        into.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=into, prefix="build-") as folder:
            _write(files, Path(folder))
            _run_bentoml_build(Path(folder), into.absolute(), tag_name, tag_version, path)
    return Bento(tag=f"{tag_name}:{tag_version}", path=path, source=path / "src", requirements=requirements)


def template_digest() -> str:
    """16 hex digits that change when service_template or BentoML does, and with them every Bento."""
    return _digest(_template_files())


def template_folder() -> Path:
    """Where service_template lies: inside this package once installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "service_template"
    return inside if inside.is_dir() else package.parent / "service_template"


def _template_files() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(template_folder().glob("*.py"))}


def _source_files(
    description: Mapping[str, Any], model: ResolvedModel, labels: bytes | None, requirements: tuple[str, ...]
) -> dict[str, bytes]:
    files = _template_files()
    files[_DESCRIPTION_FILE] = _json(description)
    if description["template"] == "image_classifier":
        if labels is None:
            raise ModelUnusable(
                f"{model.resolved_uri} has no labels, without which images cannot be labelled.",
                hint="log a labels JSON file at the run's root, or name it with the option labels",
            )
        files[LABELS_FILE] = _json(parse_labels(labels))
    files["bentofile.yaml"] = yaml.safe_dump(_make_bentofile(model, requirements)).encode()
    return files


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _make_bentofile(model: ResolvedModel, requirements: tuple[str, ...]) -> dict[str, Any]:
    # Not locked by BentoML: the image resolves them, for its own platform and Python.
    # This file goes along into the image, so no password of an index may stand in it.
    python = {"packages": [without_credentials(line) for line in requirements], "lock_packages": False}
    minor = ".".join((model.python_version or f"{sys.version_info.major}.{sys.version_info.minor}").split(".")[:2])
    return {"service": "service:Service", "include": ["*"], "python": python, "docker": {"python_version": minor}}


def _run_bentoml_build(folder: Path, home: Path, name: str, version: str, path: Path) -> None:
    command = [sys.executable, "-m", "bentoml", "build", "--name", name, "--version", version, "--output", "tag"]
    environment = {
        **os.environ,  # PATH, proxies, the virtual environment: what any child of ours would get
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "true",
        "PYTHONDONTWRITEBYTECODE": "1",
        "BUILDING_BENTO": "1",
    }
    try:
        # The folder is the working directory because `-m` puts that on the module path.
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_BUILD_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ImageError(f"BentoML did not build the service within {_BUILD_TIMEOUT_SECONDS} s.") from error
    # A build of the same content may have come first; then BentoML complains of what is there, and it is good.
    if not (path / "bento.yaml").is_file():
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise ImageError(f"BentoML could not build the service '{name}' (exit code {done.returncode}).\n{said}")


def _network_conf(model: ResolvedModel) -> Mapping[str, Any] | None:
    return next((model.flavors[name] for name in _NETWORK_FLAVORS if name in model.flavors), None)


def _takes_images(model: ResolvedModel) -> bool:
    signature = model.metadata.get("signature") or {}
    if not signature.get("inputs"):
        return True  # nothing is known against it
    inputs = json.loads(signature["inputs"])
    shape = inputs[0].get("tensor-spec", {}).get("shape", []) if len(inputs) == 1 else []
    return len(shape) == 4 and shape[3] in _IMAGE_CHANNELS


def _has_class_numbers(labels: Mapping[object, object]) -> bool:
    return all(str(key).isdecimal() for key in labels)


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


def _tag_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63] or "mlflow-model"


def _digest(files: Mapping[str, bytes]) -> str:
    digest = sha256(installed_version("bentoml").encode())
    for name, content in sorted(files.items()):
        digest.update(f"\n{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _json(document: object) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"

"""Builds the Bento of a model from a description of how it is served. The only module that uses bentoml.

The models' files are not part of the Bento: the image adds them as separate layers. That saves a copy of possibly
gigabytes, and a new version of the model changes only a few kilobytes of the service layer.

BentoML builds in a separate process: it changes the working directory, keeps the modules it imports (`service`, a
common name) and reads its home directory once at import. Notebooks and the webhook service must not be affected.
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
from typing import Any

import yaml

from mlflow_fargate.bento.description import LABELS_FILE, ServedModel, make_service_description, parse_labels
from mlflow_fargate.bento.requirements import service_requirements
from mlflow_fargate.errors import ImageError, ModelUnusable
from mlflow_fargate.page_files import template_folder
from mlflow_fargate.resolved_model import ResolvedModel, without_credentials

_DESCRIPTION_FILE = "service.json"
_CUSTOM_FOLDER = "custom"
_BUILD_TIMEOUT_SECONDS = 300
_TEMPLATE_SUFFIXES = {".py", ".css"}


@dataclass(frozen=True)
class Bento:
    """A built Bento on disk."""

    tag: str  # NAME:VERSION; the version is a digest of its content
    path: Path
    source: Path  # the content of /opt/app/src in the image
    requirements: tuple[str, ...]  # what the image must install


def build_bento(
    served: ServedModel,
    labels: bytes | None,
    into: Path,
    *,
    requirements: tuple[str, ...] = (),
    code_only: bool = False,
) -> Bento:
    """Returns a Bento in the Bento store `into`; one with the same content is not built again.

    `code_only` writes only the Bento's `source`, with the same bytes, and skips the seconds that BentoML takes to
    import itself and the service. That import finds mistakes in a custom service; a template has none.

    `labels` is the content of the labels file, which an image classifier requires; `requirements` defaults to the
    model's.
    The bytes in `source` depend only on the arguments and the versions of this package and of BentoML.
    Raises ImageError, with BentoML's output, if the build fails.
    """
    requirements = requirements or service_requirements(served)
    files = _source_files(served, labels, requirements)
    name, version = _tag_name(served.model.name or "model"), _digest(files)
    path = into.absolute() / "bentos" / name / version
    if code_only:
        _write(files, path / "src")
    elif not (path / "bento.yaml").is_file():
        into.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=into, prefix="build-") as folder:
            _write(files, Path(folder))
            _run_bentoml_build(Path(folder), into.absolute(), name, version, path)
    return Bento(tag=f"{name}:{version}", path=path, source=path / "src", requirements=requirements)


def template_digest() -> str:
    """Returns 16 hex digits that change when service_template or BentoML does, and with them every Bento."""
    return _digest(_template_files())


def _template_files() -> dict[str, bytes]:
    top = template_folder()
    return {
        file.relative_to(top).as_posix(): file.read_bytes()
        for file in sorted(top.rglob("*"))
        if file.suffix in _TEMPLATE_SUFFIXES
    }


def _source_files(served: ServedModel, labels: bytes | None, requirements: tuple[str, ...]) -> dict[str, bytes]:
    files = _template_files()
    files[_DESCRIPTION_FILE] = _json(make_service_description(served))
    if served.template == "image_classifier":
        if labels is None:
            raise ModelUnusable(
                f"'{served.model.resolved_uri}' has no labels file, which the image classifier requires.",
                hint="log a JSON labels file at the run's root, or set labels=FILE",
            )
        files[LABELS_FILE] = _json(parse_labels(labels))
    files["bentofile.yaml"] = yaml.safe_dump(_make_bentofile(served.model, requirements)).encode()
    custom = served.custom_service.files if served.custom_service else {}
    return {**files, **{f"{_CUSTOM_FOLDER}/{name}": content for name, content in custom.items()}}


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _make_bentofile(model: ResolvedModel, requirements: tuple[str, ...]) -> dict[str, Any]:
    # Not locked by BentoML: the image build resolves them for its platform and Python.
    # This file is copied into the image, so it must not contain an index password.
    python = {"packages": [without_credentials(line) for line in requirements], "lock_packages": False}
    minor = ".".join((model.python_version or f"{sys.version_info.major}.{sys.version_info.minor}").split(".")[:2])
    return {"service": "service:Service", "include": ["*"], "python": python, "docker": {"python_version": minor}}


def _run_bentoml_build(folder: Path, home: Path, name: str, version: str, path: Path) -> None:
    command = [sys.executable, "-m", "bentoml", "build", "--name", name, "--version", version, "--output", "tag"]
    environment = {
        **os.environ,  # PATH, proxies, the virtual environment: what any child process would get
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "true",
        "PYTHONDONTWRITEBYTECODE": "1",
        "BUILDING_BENTO": "1",
    }
    try:
        # `-m` adds the working directory to the module path.
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
    # Another process may have built the same content first; BentoML then reports an error, but the Bento is valid.
    if not (path / "bento.yaml").is_file():
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise ImageError(f"BentoML could not build the service '{name}' (exit code {done.returncode}).\n{said}")


def _tag_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63] or "mlflow-model"


def _digest(files: Mapping[str, bytes]) -> str:
    digest = sha256(installed_version("bentoml").encode())
    for name, content in sorted(files.items()):
        digest.update(f"\n{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _json(document: object) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"

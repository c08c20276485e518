"""A folder that any engine builds the image from: a Dockerfile, pinned requirements, the service's code, the models."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.layers.layer import Files, checked_name, files_below
from mlflow_fargate.image.layers.paths import ENVIRONMENT, MODEL, MODELS, SITE, SOURCE
from mlflow_fargate.image.layers.streamed_file import StreamedFile
from mlflow_fargate.image.packages.lock_file import Lock
from mlflow_fargate.image.spec import ImageSpec
from mlflow_fargate.resolved_model import without_credentials

_DOCKERFILE = """\
# Made by mlflow-fargate. The requirements are pinned with hashes, for Python {python} on {platform}.
FROM {base}
USER root
{system}COPY requirements.txt /tmp/requirements.txt
# uv where the base has it, else pip.
RUN if command -v uv; then \\
      uv pip install --no-cache --compile-bytecode --target {site} --require-hashes --no-deps \\
        -r /tmp/requirements.txt; \\
    else \\
      python3 -m pip install --no-cache-dir --target {site} --require-hashes --no-deps \\
        -r /tmp/requirements.txt; \\
    fi && rm /tmp/requirements.txt
COPY src {source}
{models}{environment}
{labels}
USER {user}
WORKDIR {workdir}
VOLUME {volumes}
EXPOSE {ports}
STOPSIGNAL {signal}
ENTRYPOINT {entrypoint}
CMD []
"""
_APT = """\
RUN apt-get update && apt-get install -y --no-install-recommends {packages} && rm -rf /var/lib/apt/lists/*
"""


def write_context(folder: Path, spec: ImageSpec, lock: Lock) -> None:
    """Fill `folder`, which is made or empty; ImageError when something in it would have to be a secret."""
    if folder.exists() and any(folder.iterdir()):
        raise ImageError(f"{folder} is not empty.", hint="name a folder that is empty or new")
    requirements = "".join(f"{line}\n" for line in lock.index_options) + lock.text
    if "${" in requirements or without_credentials(requirements) != requirements:
        raise ImageError(
            "The packages come from an index that asks for a password, which would stay in a layer of the image.",
            hint="builder=layers installs them on this machine, and nothing of the password is kept",
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "requirements.txt").write_text(requirements, encoding="utf-8")
    (folder / "Dockerfile").write_text(make_dockerfile(spec, lock), encoding="utf-8")
    code = files_below(spec.service).items()
    _copy({name: path for name, path in code if "__pycache__" not in name}, folder / "src")
    models = {"model": spec.model} if spec.model else {}
    for place, model in {**models, **{f"models/{name}": one for name, one in spec.further_models.items()}}.items():
        _copy(model.files() if callable(model.files) else model.files, folder / place)


def make_dockerfile(spec: ImageSpec, lock: Lock) -> str:
    """The text of the Dockerfile; what changes least stands first. Pure."""
    settings = spec.settings
    copied = [*([("model", MODEL)] if spec.model else []), *([("models", MODELS)] if spec.further_models else [])]
    return _DOCKERFILE.format(
        python=lock.python_version,
        platform=lock.platform,
        base=spec.base,
        system=_APT.format(packages=" ".join(sorted(spec.system_packages))) if spec.system_packages else "",
        site=SITE,
        source=SOURCE,
        models="".join(f"COPY {source} {place}\n" for source, place in copied),
        environment=_pairs("ENV", ENVIRONMENT.items()),
        labels=_pairs("LABEL", ((quoted(name), value) for name, value in spec.labels.items())) if spec.labels else "",
        user=settings["User"],
        workdir=settings["WorkingDir"],
        volumes=json.dumps(sorted(settings["Volumes"])),
        ports=" ".join(sorted(settings["ExposedPorts"])),
        signal=settings["StopSignal"],
        entrypoint=json.dumps(settings["Entrypoint"]),
    )


def _pairs(instruction: str, pairs: Iterable[tuple[str, str]]) -> str:
    return f"{instruction} " + " \\\n    ".join(f"{name}={quoted(value)}" for name, value in pairs)


def quoted(value: str) -> str:
    """The value as a word of a Dockerfile that says no more than itself: a model's name is anybody's text.

    Source: https://docs.docker.com/reference/dockerfile/#environment-replacement
    """
    plain = re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", " ", value)
    return '"' + re.sub(r'(["\\$`])', r"\\\1", plain) + '"'


def _copy(files: Files, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    for name, source in files.items():
        place = into / checked_name(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        with (
            place.open("xb") as target,
            source.open() if isinstance(source, StreamedFile) else source.open("rb") as file,
        ):
            shutil.copyfileobj(file, target, 1 << 20)

"""A folder that any engine builds the image from: a Dockerfile, pinned requirements, the service's code, the models."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow_fargate.errors import ImageError
from mlflow_fargate.image.layers.application import ModelFiles
from mlflow_fargate.image.layers.layer import Files, checked_name, files_below
from mlflow_fargate.image.layers.paths import ENVIRONMENT, MODEL, MODELS, SETTINGS, SITE, SOURCE
from mlflow_fargate.image.layers.streamed_file import StreamedFile
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.packages.lock_file import Lock
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


def write_context(
    folder: Path,
    *,
    base: Reference,
    lock: Lock,
    service: Path,
    model: ModelFiles,
    further_models: Mapping[str, ModelFiles],
    system_packages: Sequence[str],
    environment: Mapping[str, str],
    labels: Mapping[str, str],
) -> None:
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
    (folder / "Dockerfile").write_text(
        make_dockerfile(
            base=base,
            lock=lock,
            has_further_models=bool(further_models),
            system_packages=system_packages,
            environment=environment,
            labels=labels,
        ),
        encoding="utf-8",
    )
    _copy({name: path for name, path in files_below(service).items() if "__pycache__" not in name}, folder / "src")
    _copy(model() if callable(model) else model, folder / "model")
    for key, files in further_models.items():
        _copy(files() if callable(files) else files, folder / "models" / key)


def make_dockerfile(
    *,
    base: Reference,
    lock: Lock,
    has_further_models: bool,
    system_packages: Sequence[str],
    environment: Mapping[str, str],
    labels: Mapping[str, str],
) -> str:
    """The text of the Dockerfile; what changes least stands first. Pure."""
    own = {**ENVIRONMENT, **environment}
    return _DOCKERFILE.format(
        python=lock.python_version,
        platform=lock.platform,
        base=base,
        system=_APT.format(packages=" ".join(sorted(system_packages))) if system_packages else "",
        site=SITE,
        source=SOURCE,
        models=f"COPY model {MODEL}\n" + (f"COPY models {MODELS}\n" if has_further_models else ""),
        environment="ENV " + " \\\n    ".join(f"{name}={quoted(value)}" for name, value in own.items()),
        labels="LABEL " + " \\\n      ".join(f"{quoted(name)}={quoted(value)}" for name, value in labels.items())
        if labels
        else "",
        user=SETTINGS["User"],
        workdir=SETTINGS["WorkingDir"],
        volumes=json.dumps(sorted(SETTINGS["Volumes"])),
        ports=" ".join(sorted(SETTINGS["ExposedPorts"])),
        signal=SETTINGS["StopSignal"],
        entrypoint=json.dumps(SETTINGS["Entrypoint"]),
    )


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

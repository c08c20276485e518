"""Everything that goes into a model's image, decided before anything is built. Its digest is the image's key."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from platform import python_version
from typing import Literal

from packaging.utils import canonicalize_name

from mlflow_fargate import bento
from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.errors import InvalidOption, ModelUnusable
from mlflow_fargate.image import PYPI, Compression, Indexes, Platform, Reference, lines_of_a_model
from mlflow_fargate.publisher.base_image import default_base_image, platform_of
from mlflow_fargate.publisher.wheels import share_wheels, with_wheels
from mlflow_fargate.requirement_files import CONSTRAINT
from mlflow_fargate.resolved_model import DEFAULT_FLAVOR, ResolvedModel, printable, without_credentials
from mlflow_fargate.resources import short_digest

Builder = Literal["layers", "docker", "podman", "buildah"]

_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+() -]{0,99}")  # an SPDX expression
_OLDEST_PYTHON = (3, 10)  # required by service_template


@dataclass(frozen=True)
class ImageInputs:
    """Everything that goes into an image."""

    served: bento.ServedModel
    requirements: tuple[str, ...]
    base: Reference
    platform: Platform
    compression: Compression
    normalize: bool = True
    indexes: Indexes = PYPI
    system_packages: tuple[str, ...] = ()
    builder: Builder = "layers"
    runtime: str = "native"  # as requested
    runtime_tolerance: float = 0.0

    @property
    def model(self) -> ResolvedModel:
        return self.served.model

    @property
    def key(self) -> str:
        """16 hex digits that change whenever the image would, except for new releases in the package index."""
        return short_digest(
            {
                "model": self.model.fingerprint,
                "service": bento.make_service_description(self.served),
                "further models": {key: model.fingerprint for key, model in self.served.further_models.items()},
                "template": bento.template_digest(),
                # A different password does not change the packages.
                "requirements": sorted(without_credentials(line) for line in self.requirements),
                "indexes": [without_credentials(url) for url in (self.indexes.url or "", *self.indexes.others)],
                "base": str(self.base),
                "system packages": sorted(self.system_packages),
                "platform": str(self.platform),
                "compression": self.compression.value,
                "normalize": self.normalize,
                "version": importlib.metadata.version("mlflow-fargate"),
                **({} if self.builder == "layers" else {"builder": self.builder}),
                "runtime": [] if self.runtime == "native" else [self.runtime, self.runtime_tolerance],
            }
        )


def image_inputs(
    model: ResolvedModel, config: DeploymentConfig, further_models: Mapping[str, ResolvedModel] | None = None
) -> ImageInputs:
    """Returns the inputs of the model's image; raises InvalidOption if the options conflict."""
    custom = bento.read_custom_service(Path(config.custom_service)) if config.custom_service else None
    if further_models and custom is None:
        raise InvalidOption(
            "Option models: only a custom service can load several models.", hint="set one with service=PATH.py"
        )
    if custom is None:
        _check_can_be_built(model, config.requirements)
    indexes = Indexes(config.index_url, config.extra_index_urls, config.find_links)
    adapted = partial(
        _adapted,
        indexes,
        _names(config.requirements),
        python=python_of(model),
        platform=platform_of(config.architecture),
    )
    further_models = further_models or {}
    model, *others = share_wheels([adapted(one) for one in (model, *further_models.values())])
    further_models = dict(zip(further_models, others, strict=True))
    template = "custom" if custom else config.service or bento.choose_template(model)
    if template == "pyfunc" and DEFAULT_FLAVOR not in model.flavors:
        raise ModelUnusable(
            f"'{model.requested_uri}' has no flavor {DEFAULT_FLAVOR}, through which MLflow serves models; "
            f"its flavors are: {', '.join(sorted(model.flavors))}.",
            hint="log it with a flavor that has one, or serve it with your own code: service=PATH.py",
        )
    served = bento.ServedModel(model, template, config.template_options, custom, further_models)
    return ImageInputs(
        served,
        requirements=bento.service_requirements(served, config.requirements),
        base=Reference.parse(config.base_image or default_base_image(python_of(model))),
        platform=platform_of(config.architecture),
        compression=Compression(config.compression),
        normalize=config.normalize,
        system_packages=config.system_packages,
        indexes=indexes,
        builder=config.builder,
        runtime=config.runtime,
        runtime_tolerance=config.runtime_tolerance,
    )


def _adapted(
    indexes: Indexes, named: Collection[str], model: ResolvedModel, *, python: str, platform: Platform
) -> ResolvedModel:
    """Returns the model with requirement lines that name only known indexes, and its own wheels.

    Lines that say where a package is are left out if the deployer names the package, which replaces them.
    """
    kept = tuple(line for line in model.requirements if "/" not in line or _package_at(line) not in named)
    model = with_wheels(replace(model, requirements=kept), named, python, platform)
    return replace(model, requirements=lines_of_a_model(model.requirements, (indexes.url, *indexes.others)))


def _check_can_be_built(model: ResolvedModel, further: tuple[str, ...]) -> None:
    """Raises ModelUnusable for problems that would otherwise surface minutes later, in a task that fails to start."""
    if lost := [one for one in model.conda_packages if not _names([one]) <= _names(further)]:
        raise ModelUnusable(
            f"The conda.yaml of '{model.requested_uri}' lists packages that pip does not install: {', '.join(lost)}.",
            hint=f"choose them from the package index: requirements={','.join((*further, *lost))}",
        )
    if not further and not model.requirements and all(file.path != "requirements.txt" for file in model.files):
        raise ModelUnusable(
            f"'{model.requested_uri}' has no requirements.txt, so the packages it needs are unknown.",
            hint="log the model with mlflow.FLAVOR.log_model(), which writes this file, or list the packages: "
            "-C requirements=NAME==VERSION",
        )
    minor = python_of(model)
    if tuple(int(part) for part in minor.split(".") if part.isdigit()) < _OLDEST_PYTHON:
        raise ModelUnusable(
            f"'{model.requested_uri}' was logged with Python {minor}; "
            f"{'.'.join(map(str, _OLDEST_PYTHON))} or newer is required.",
            hint="log the model again with a newer Python; a model is served with the Python version it was "
            "logged with",
        )


def _names(lines: Iterable[str]) -> set[str]:
    return {canonicalize_name(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in lines}


def _package_at(line: str) -> str:
    """Returns the package of a line with a place: NAME @ PLACE, FOLDER/NAME-VERSION….whl or git+URL#egg=NAME."""
    line = line.removeprefix(CONSTRAINT)
    egg, (start, _, name) = re.search(r"[#&]egg=([\w.-]+)", line), line.partition(";")[0].rpartition("/")
    if not egg and name.strip().endswith(".whl") and "@" not in start:
        return canonicalize_name(name.partition("-")[0])
    return canonicalize_name(egg[1]) if egg else _names([line]).pop()


def python_of(model: ResolvedModel) -> str:
    """Returns the Python minor version ('3.11') that the model was logged with, or this machine's if it is unknown."""
    version = model.python_version or python_version()
    return ".".join(version.split(".")[:2])


def image_labels(model: ResolvedModel) -> dict[str, str]:
    """Returns the image's labels: OCI annotation keys where one exists, `mlflow-fargate.` keys for the rest.

    Values come from the model registry and from the MLmodel file, where anyone may have written them.
    Source: OCI image-spec, annotations.md.
    """
    labels = {
        "org.opencontainers.image.title": model.name or "model",
        "org.opencontainers.image.version": model.version,
        "org.opencontainers.image.revision": model.run_id,
        "org.opencontainers.image.source": model.resolved_uri,
        "org.opencontainers.image.created": f"{model.created:%Y-%m-%dT%H:%M:%SZ}" if model.created else None,
        "org.opencontainers.image.licenses": license_of(model),
        "mlflow-fargate.run-id": model.run_id,
        "mlflow-fargate.fingerprint": model.fingerprint,
    }
    return {key: text for key, value in labels.items() if value and (text := printable(str(value)))}


def license_of(model: ResolvedModel) -> str | None:
    """Returns the SPDX expression under `license` in the metadata that the model was logged with; None: not stated."""
    metadata = model.metadata.get("metadata")
    stated = metadata.get("license") if isinstance(metadata, dict) else None
    return stated if isinstance(stated, str) and _LICENSE.fullmatch(stated) else None

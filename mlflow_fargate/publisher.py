"""The story's first half: a model becomes an image in the endpoint's repository.

    resolve → (is the image there already?) → Bento → layers → push

An image's tag is made of all that went into it, and tags in the repository never move. So where the tag exists there is
nothing to build, and where it does not, the layers that other images share are not sent again.
"""

from __future__ import annotations

import errno
import importlib.metadata
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mlflow_fargate import bento
from mlflow_fargate.aws.account import Account
from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.deployment import ResolvedModel, without_credentials
from mlflow_fargate.errors import DiskFull, InvalidOption, ModelUnusable
from mlflow_fargate.image import (
    PYPI,
    BuildReport,
    Compression,
    Indexes,
    ModelFiles,
    OciLayout,
    Platform,
    PushedImage,
    Reference,
    Registry,
    StreamedFile,
    Trial,
    Unpacked,
    build_image,
    find_interpreter,
)
from mlflow_fargate.model import ArtifactStores, download_model, resolve_model
from mlflow_fargate.progress import Progress, format_bytes
from mlflow_fargate.resources import digest_of
from mlflow_fargate.target import Target
from mlflow_fargate.trial import try_service

# Docker's official Python images, from the copy that AWS keeps: no login, no rate limit worth the name.
_BASE_IMAGE = "public.ecr.aws/docker/library/python:{minor}-slim"
_LABELS_LIMIT_BYTES = 1 << 20
_OLDEST_PYTHON = (3, 10)  # service_template's
# Larger models go from their store into the repository without lying here, neither as files nor as a layer.
_STREAMED_BYTES = 256 * 10**6
_PLATFORMS = {"X86_64": "linux/amd64", "ARM64": "linux/arm64"}


@dataclass(frozen=True)
class ImageInputs:
    """All that goes into an image."""

    model: ResolvedModel
    template: str
    requirements: tuple[str, ...]
    base: Reference
    platform: Platform
    compression: Compression
    normalise: bool = True
    indexes: Indexes = PYPI
    missing_libraries: Literal["error", "note"] = "error"
    system_packages: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)  # the template's
    own: bento.OwnService | None = None
    further_models: Mapping[str, ResolvedModel] = field(default_factory=dict, hash=False)

    @property
    def key(self) -> str:
        """16 hex digits that change whenever the image would; what the package index offers today does not count."""
        return digest_of(
            {
                "model": self.model.fingerprint,
                "service": bento.make_service_description(
                    self.template, self.model, self.options, own=self.own, further_models=self.further_models
                ),
                "further models": {key: model.fingerprint for key, model in self.further_models.items()},
                "template": bento.template_digest(),
                # Another password brings the same packages.
                "requirements": sorted(without_credentials(line) for line in self.requirements),
                "indexes": [without_credentials(url) for url in (self.indexes.url or "", *self.indexes.extra_urls)],
                "base": str(self.base),
                "system packages": sorted(self.system_packages),
                "platform": str(self.platform),
                "compression": self.compression.value,
                "normalise": self.normalise,
                "version": importlib.metadata.version("mlflow-fargate"),
            }
        )


@dataclass(frozen=True)
class Publisher:
    """Makes images for one endpoint and pushes them."""

    target: Target
    account: Account
    cache: Path
    progress: Progress

    def resolve(self, model_uri: str, labels: str | None) -> ResolvedModel:
        """The model behind the URI: which version it is and where its files are."""
        self.progress.step(f"resolve {model_uri}")
        return resolve_model(model_uri, stores=self._stores(), progress=self.progress, labels=labels)

    def publish(self, name: str, model: ResolvedModel, config: DeploymentConfig) -> str:
        """The image that serves `model` as deployment `name`, by digest; built and pushed unless it is there."""
        self.progress.step("image")
        inputs = self._inputs(model, config)
        repository = self.account.repository(self.target.endpoint)
        registry = self._registry()
        destination = Reference.parse(f"{repository.ensure()}:{name}.{inputs.key}")
        if found := _find(registry, destination):
            self.progress.note(f"the repository has it already: {destination.tag}")
            return str(found)
        newest = repository.newest_image()
        previous = destination.with_digest(newest) if newest else None
        with _telling_of_a_full_disk(self.cache):
            trial = self._make_trial(inputs, config) if config.smoke_test else None
            return str(self._build(inputs, destination, registry, previous, trial).reference)

    def find(self, name: str, model: ResolvedModel, config: DeploymentConfig) -> str | None:
        """The image that `publish` would return, if it is in the repository already; writes nothing."""
        inputs = self._inputs(model, config)
        repository = self.account.repository(self.target.endpoint).observe()
        if repository is None:
            return None
        found = _find(self._registry(), Reference.parse(f"{repository['repositoryUri']}:{name}.{inputs.key}"))
        return str(found) if found else None

    def export(self, model: ResolvedModel, config: DeploymentConfig, folder: Path, tag: str) -> str:
        """The digest of the image that would serve `model`, written into `folder` as an OCI layout under that tag."""
        destination = Reference("localhost", "exported", tag)
        self.progress.step("image")
        with _telling_of_a_full_disk(self.cache):
            image = self._build(self._inputs(model, config), destination, OciLayout(folder), None)
        return image.reference.identifier

    def _registry(self) -> Registry:
        address, user, password = self.account.registry_login()
        return Registry(address, credentials=lambda: (user, password))

    def _make_trial(self, inputs: ImageInputs, config: DeploymentConfig) -> Trial | None:
        """What tries the service on this machine; None, and a note why, where that would say nothing."""
        interpreter = find_interpreter(python_of(inputs.model))
        reason = ""
        if sys.platform != "linux" or platform.machine() != inputs.platform.machine:
            reason = f"the image is for {inputs.platform}, this machine is {platform.system()} on {platform.machine()}"
        elif interpreter is None:
            reason = f"there is no Python {python_of(inputs.model)} here"
        elif config.secrets:
            reason = "it may need its secrets, which only ECS reads"
        if reason or interpreter is None:
            self.progress.note(f"the service is not tried on this machine: {reason}")
            return None

        def trial(unpacked: Unpacked, environment: Mapping[str, str]) -> None:
            self.progress.note("trying the service on this machine (smoke_test=false: not)")
            seconds = try_service(
                unpacked.entry_point,
                working_directory=unpacked.working_directory,
                environment={**environment, **config.environment},
                interpreter=interpreter,
            )
            self.progress.note(f"the service was ready after {seconds:.0f} s")

        return trial

    def _build(
        self,
        inputs: ImageInputs,
        destination: Reference,
        registry: Registry | OciLayout,
        previous: Reference | None,
        trial: Trial | None = None,
    ) -> PushedImage:
        model = inputs.model
        if any(line != without_credentials(line) for line in model.requirements):
            self.progress.note("the model's requirements.txt holds a password and, being a file of the model, keeps it")
        mirror = self.target.surroundings.registry_mirrors.get(inputs.base.registry)
        with tempfile.TemporaryDirectory(prefix="mlflow-fargate-") as work:
            built = bento.build_bento(
                model,
                inputs.template,
                self._read_labels(model),
                Path(work),
                options=inputs.options,
                own=inputs.own,
                further_models=inputs.further_models,
            )
            self.progress.note(f"Bento {built.tag}")
            image = build_image(
                base=inputs.base,
                base_registry=Registry(mirror or inputs.base.registry),
                requirements=inputs.requirements,
                python_version=python_of(model),
                platform=inputs.platform,
                service=built.source,
                model=self._files_of(model),
                model_key=model.fingerprint,
                further_models={
                    key: (self._files_of(further), further.fingerprint)
                    for key, further in inputs.further_models.items()
                },
                destination=destination,
                registry=registry,
                previous=previous,
                labels=image_labels(model),
                compression=inputs.compression,
                adapt_requirements=inputs.normalise,
                indexes=inputs.indexes,
                missing_libraries=inputs.missing_libraries,
                system_packages=inputs.system_packages,
                trial=trial,
                cache=self.cache,
                progress=self.progress,
            )
        self._tell(image.report)
        return image

    def _inputs(self, model: ResolvedModel, config: DeploymentConfig) -> ImageInputs:
        further = {
            key: resolve_model(uri, stores=self._stores(), progress=self.progress, labels="none")
            for key, uri in sorted(config.models.items())
        }
        return image_inputs(model, config, further)

    def _files_of(self, model: ResolvedModel) -> ModelFiles:
        if model.size_bytes < _STREAMED_BYTES:
            return lambda: _files_below(self._download(model))
        store, root = self._stores().for_uri(model.artifact_uri), model.artifact_uri
        return {file.path: StreamedFile(file.size_bytes, partial(store.stream, root, file)) for file in model.files}

    def _stores(self) -> ArtifactStores:
        return ArtifactStores(s3=self.account.artifacts)

    def _download(self, model: ResolvedModel) -> Path:
        return download_model(model, stores=self._stores(), cache=self.cache, progress=self.progress)

    def _read_labels(self, model: ResolvedModel) -> bytes | None:
        if model.labels_uri is None:
            return None
        root, _, name = model.labels_uri.rpartition("/")
        return self._stores().for_uri(root).read(root, name, _LABELS_LIMIT_BYTES)

    def _tell(self, report: BuildReport) -> None:
        for layer in report.layers:
            sent = f"{format_bytes(layer.sent_bytes)} sent" if layer.sent_bytes else "already there"
            self.progress.note(f"{layer.name}: {format_bytes(layer.size_bytes)}, {layer.origin}, {sent}")
        self.progress.note(f"image of {format_bytes(report.size_bytes)}, {format_bytes(report.sent_bytes)} sent")


def image_inputs(
    model: ResolvedModel, config: DeploymentConfig, further_models: Mapping[str, ResolvedModel] | None = None
) -> ImageInputs:
    """What the image of a model is made of, with these options; InvalidOption when they do not fit each other."""
    own = bento.read_own_service(Path(config.own_service)) if config.own_service else None
    if further_models and own is None:
        raise InvalidOption(
            "Option models: only a service of your own can load several models.", hint="name it with service=PATH.py"
        )
    if own is None:
        _check_can_be_built(model, config.requirements)
    template = "own" if own else config.service or bento.choose_template(model)
    needed = bento.service_requirements(template, model, own=own, further_models=further_models)
    return ImageInputs(
        model=model,
        template=template,
        requirements=(*needed, *config.requirements),
        base=Reference.parse(config.base_image or _BASE_IMAGE.format(minor=python_of(model))),
        platform=Platform.parse(_PLATFORMS[config.architecture]),
        compression=Compression(config.compression),
        normalise=config.normalise,
        missing_libraries=config.missing_libraries,
        system_packages=config.system_packages,
        indexes=Indexes(config.index_url, config.extra_index_urls),
        options=config.template_options,
        own=own,
        further_models=further_models or {},
    )


def _check_can_be_built(model: ResolvedModel, further: tuple[str, ...]) -> None:
    """ModelUnusable for what would only show after minutes, in a task that does not start."""
    if not further and all(file.path != "requirements.txt" for file in model.files):
        raise ModelUnusable(
            f"{model.requested_uri} has no requirements.txt: nothing says which packages it needs.",
            hint="log it with mlflow.FLAVOR.log_model(), which writes one, or name them: -C requirements=NAME==VERSION",
        )
    minor = python_of(model)
    if tuple(int(part) for part in minor.split(".") if part.isdigit()) < _OLDEST_PYTHON:
        raise ModelUnusable(
            f"{model.requested_uri} was logged with Python {minor}, and only Pythons from "
            f"{'.'.join(map(str, _OLDEST_PYTHON))} on are served.",
            hint="log the model again with a newer Python: it is served with the one that it was logged with",
        )


def python_of(model: ResolvedModel) -> str:
    """The minor version of Python ('3.11') that the model was logged with; this machine's where it does not say."""
    version = model.python_version or platform.python_version()
    return ".".join(version.split(".")[:2])


def image_labels(model: ResolvedModel) -> dict[str, str]:
    """OCI's own annotation keys where there is one, ours for the rest.

    Source: OCI image-spec, annotations.md.
    """
    labels = {
        "org.opencontainers.image.title": model.name or "model",
        "org.opencontainers.image.version": model.version,
        "org.opencontainers.image.source": model.resolved_uri,
        "mlflow-fargate.run-id": model.run_id,
        "mlflow-fargate.fingerprint": model.fingerprint,
    }
    return {key: value for key, value in labels.items() if value}


@contextmanager
def _telling_of_a_full_disk(cache: Path) -> Iterator[None]:
    """Around what writes to this machine's disk; DiskFull says what to do when there is no room left."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"The disk of this machine is full ({error.filename or tempfile.gettempdir()}).",
            hint=f"free some space; the cache is {cache} (MLFLOW_FARGATE_CACHE moves it, TMPDIR what is temporary)",
        ) from error


def _find(registry: Registry, tagged: Reference) -> Reference | None:
    digest = registry.manifest_digest(tagged.repository, str(tagged.tag))
    return tagged.with_digest(digest) if digest else None


def _files_below(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}

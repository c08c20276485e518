"""The image of a model.

resolve → (is the image there already?) → Bento → layers → push
"""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mlflow_fargate import bento
from mlflow_fargate.aws.account import Account
from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.image import (
    LINUX_AMD64,
    ModelFiles,
    OciLayout,
    PushedImage,
    Reference,
    Registry,
    StreamedFile,
    Trial,
    Unpacked,
    build_image,
    build_with_engine,
    export_context,
    find_interpreter,
)
from mlflow_fargate.model import ArtifactStores, download_model, resolve_model
from mlflow_fargate.progress import Progress
from mlflow_fargate.publisher.inputs import ImageInputs, image_inputs, image_labels, python_of
from mlflow_fargate.publisher.reporting import find_image, registry_of_base, tell_of_layers, telling_of_a_full_disk
from mlflow_fargate.publisher.runtime import (
    NATIVE,
    RUNTIME,
    RUNTIME_REASON,
    Runtime,
    choose_runtime,
    refuse_or_stay_native,
    why_not_converted_here,
)
from mlflow_fargate.resolved_model import ResolvedModel, without_credentials
from mlflow_fargate.sandbox import try_service
from mlflow_fargate.target import Target

_LABELS_LIMIT_BYTES = 1 << 20
# Larger models go from their store into the repository without lying here, neither as files nor as a layer.
_STREAMED_BYTES = 256 * 10**6


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
        repository = self.account.endpoint(self.target.endpoint).repository
        registry = self._registry()
        where = f"{repository.ensure()}:{name}"
        if found := find_image(registry, Reference.parse(f"{where}.{inputs.key}")):
            return self._there_already(found)
        if config.runtime != "native":
            inputs = self._as_can_be_converted(inputs, config)
            if inputs.runtime == "native" and (found := find_image(registry, Reference.parse(f"{where}.{inputs.key}"))):
                return self._there_already(found)
        destination = Reference.parse(f"{where}.{inputs.key}")
        newest = repository.newest_image()
        previous = destination.with_digest(newest) if newest else None
        with telling_of_a_full_disk(self.cache):
            trial = self._make_trial(inputs, config) if config.smoke_test else None
            return str(
                self._build(inputs, destination, registry, previous, trial, build_sdists=config.build_sdists).reference
            )

    def find(self, name: str, model: ResolvedModel, config: DeploymentConfig) -> str | None:
        """The image that `publish` would return, if it is in the repository already; writes nothing."""
        inputs = self._inputs(model, config)
        repository = self.account.endpoint(self.target.endpoint).repository.observe()
        if repository is None:
            return None
        where = f"{repository['repositoryUri']}:{name}"
        found = find_image(self._registry(), Reference.parse(f"{where}.{inputs.key}"))
        if found is None and config.runtime != "native":
            inputs = self._as_can_be_converted(inputs, config)
            found = find_image(self._registry(), Reference.parse(f"{where}.{inputs.key}"))
        return str(found) if found else None

    def runtime_of(self, image: str) -> str:
        """What computes in an image that was made with a runtime to choose, and why."""
        reference = Reference.parse(image)
        found = self._registry().find_manifest(reference.repository, reference.identifier, LINUX_AMD64)
        notes = found.manifest.annotations if found else {}
        if RUNTIME not in notes:
            return "native: not converted"
        return f"{notes[RUNTIME]}: {notes.get(RUNTIME_REASON, '')}"

    def export(self, model: ResolvedModel, config: DeploymentConfig, folder: Path, tag: str) -> str:
        """The digest of the image that would serve `model`, written into `folder` as an OCI layout under that tag."""
        destination = Reference("localhost", "exported", tag)
        self.progress.step("image")
        with telling_of_a_full_disk(self.cache):
            inputs = self._inputs_of_export(model, config)
            image = self._build(inputs, destination, OciLayout(folder), None, build_sdists=config.build_sdists)
        return image.reference.identifier

    def export_dockerfile(self, model: ResolvedModel, config: DeploymentConfig, folder: Path) -> None:
        """The image that would serve `model` as a Dockerfile and what it copies, in `folder`."""
        self.progress.step("Dockerfile")
        with (
            telling_of_a_full_disk(self.cache),
            self._parts(self._inputs_of_export(model, config), build_sdists=config.build_sdists) as (_, parts),
        ):
            export_context(folder, **parts)

    def _inputs_of_export(self, model: ResolvedModel, config: DeploymentConfig) -> ImageInputs:
        inputs = self._inputs(model, config)
        return inputs if config.runtime == "native" else self._as_can_be_converted(inputs, config)

    def _there_already(self, found: Reference) -> str:
        self.progress.note(f"the repository has it already: {found.tag}")
        return str(found)

    def _as_can_be_converted(self, inputs: ImageInputs, config: DeploymentConfig) -> ImageInputs:
        """The same, or those of a native image where the model cannot be converted on this machine."""
        if reason := why_not_converted_here(inputs, may_convert=config.convert):
            refuse_or_stay_native(inputs, reason, self.progress)
            return replace(inputs, runtime="native")
        return inputs

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
        *,
        build_sdists: bool,
    ) -> PushedImage:
        if inputs.builder != "layers" and inputs.base.registry in self.target.environment.registry_mirrors:
            raise InvalidOption(
                f"Option builder={inputs.builder}: on the local stack {inputs.base} stands for this machine's Python, "
                f"which {inputs.builder} cannot build on.",
                hint="name a base image that it can pull, such as base_image=docker.io/library/python:3.11-slim",
            )
        with self._parts(inputs, build_sdists=build_sdists) as (runtime, parts):
            common = {
                **parts,
                "destination": destination,
                "registry": registry,
                "previous": previous,
                "compression": inputs.compression,
            }
            if inputs.builder != "layers":
                if trial:
                    self.progress.note(f"the service is not tried on this machine: {inputs.builder} makes the image")
                image = build_with_engine(inputs.builder, **common)
            else:
                fingerprint = inputs.model.fingerprint
                image = build_image(
                    **common,
                    model_key=f"{fingerprint}-{runtime.files_digest}" if runtime.files else fingerprint,
                    base_registry=registry_of_base(inputs.base, self.target),
                    annotations=runtime.labels,
                    missing_libraries=inputs.missing_libraries,
                    trial=trial,
                )
        tell_of_layers(image.report, self.progress)
        return image

    @contextmanager
    def _parts(self, inputs: ImageInputs, *, build_sdists: bool) -> Iterator[tuple[Runtime, dict[str, Any]]]:
        """What computes in the image, and the arguments that all builders share; the files are there meanwhile."""
        model = inputs.model
        if any(line != without_credentials(line) for line in model.requirements):
            self.progress.note("the model's requirements.txt holds a password and, being a file of the model, keeps it")
        with tempfile.TemporaryDirectory(prefix="mlflow-fargate-") as work, self._runtime(inputs) as runtime:
            inputs = runtime.applied_to(inputs)
            built = bento.build_bento(
                model,
                inputs.template,
                self._read_labels(model),
                Path(work),
                options=inputs.options,
                own=inputs.own,
                further_models=inputs.further_models,
                requirements=runtime.requirements,
                code_only=inputs.own is None,
            )
            self.progress.note(f"Bento {built.tag}")
            yield (
                runtime,
                {
                    "base": inputs.base,
                    "requirements": inputs.requirements,
                    "python_version": python_of(model),
                    "platform": inputs.platform,
                    "service": built.source,
                    "model": runtime.files or self._files_of(model),
                    "further_models": {
                        key: (self._files_of(further), further.fingerprint)
                        for key, further in inputs.further_models.items()
                    },
                    "labels": {**image_labels(model), **runtime.labels},
                    "adapt_requirements": inputs.normalize,
                    "indexes": inputs.indexes,
                    "system_packages": inputs.system_packages,
                    "build_sdists": build_sdists,
                    "cache": self.cache,
                    "progress": self.progress,
                },
            )

    @contextmanager
    def _runtime(self, inputs: ImageInputs) -> Iterator[Runtime]:
        """What computes in the image; the files of a converted model are there while the context lasts."""
        if inputs.runtime == "native":
            yield NATIVE
            return
        with tempfile.TemporaryDirectory(prefix="mlflow-fargate-onnx-") as folder:
            yield choose_runtime(inputs, self._download(inputs.model), Path(folder), self.cache, self.progress)

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


def _files_below(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}

"""Builds the image of a model.

resolve → (does the image exist?) → Bento → layers → push
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mlflow_fargate import bento
from mlflow_fargate.aws.account import Account
from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.errors import InvalidOption
from mlflow_fargate.image import (
    LINUX_AMD64,
    Destination,
    ImageSpec,
    OciLayout,
    Reference,
    SmokeTest,
    build_image,
    build_with_engine,
    export_context,
)
from mlflow_fargate.progress import Progress
from mlflow_fargate.publisher.base_image import registry_of_base
from mlflow_fargate.publisher.inputs import ImageInputs, image_inputs, image_labels, python_of
from mlflow_fargate.publisher.models import Models
from mlflow_fargate.publisher.reporting import explaining_full_disk, report_layers
from mlflow_fargate.publisher.repository import ImageRepository
from mlflow_fargate.publisher.runtime import (
    NATIVE,
    RUNTIME,
    RUNTIME_REASON,
    Runtime,
    choose_runtime,
    refuse_or_stay_native,
    why_not_converted_here,
)
from mlflow_fargate.publisher.smoke_test import make_smoke_test
from mlflow_fargate.publisher.wheels import check_wheels
from mlflow_fargate.resolved_model import ResolvedModel, without_credentials
from mlflow_fargate.target import Target


@dataclass(frozen=True)
class Publisher:
    """Builds images for one endpoint and pushes them."""

    target: Target
    account: Account
    cache: Path
    progress: Progress

    def resolve(self, model_uri: str, labels: str | None) -> ResolvedModel:
        """Returns the model that the URI refers to: its version and the location of its files."""
        self.progress.step(f"Resolving {model_uri}")
        return self._models().resolve(model_uri, labels)

    def publish(self, name: str, model: ResolvedModel, config: DeploymentConfig) -> str:
        """Returns the image that serves `model` as deployment `name`, by digest; builds and pushes it if missing."""
        self.progress.step("Building image")
        inputs = self._inputs(model, config)
        repository = self._repository()
        address = repository.ensure()
        for possible in self._possible(inputs, config):
            inputs, tagged = possible, Reference.parse(f"{address}:{name}.{possible.key}")
            if found := repository.find(tagged):
                self.progress.note(f"the image is already in the repository: {tagged.tag}")
                return str(found)
        with explaining_full_disk(self.cache):
            smoke_test = make_smoke_test(inputs, config, self.progress) if config.smoke_test else None
            return str(self._build(inputs, repository.destination(tagged), config, smoke_test))

    def find(self, name: str, model: ResolvedModel, config: DeploymentConfig) -> str | None:
        """Returns the image that `publish` would return, or None if it is not in the repository. Read-only."""
        inputs = self._inputs(model, config)
        repository = self._repository()
        address = repository.address()
        possible = self._possible(inputs, config) if address else ()
        found = (repository.find(Reference.parse(f"{address}:{name}.{one.key}")) for one in possible)
        return next((str(image) for image in found if image), None)

    def runtime_of(self, image: str) -> str:
        """Returns the runtime of an image built with a choice of runtimes, and the reason for it."""
        reference = Reference.parse(image)
        found = self._repository().registry.find_manifest(reference.repository, reference.identifier, LINUX_AMD64)
        notes = found.manifest.annotations if found else {}
        if RUNTIME not in notes:
            return "native: not converted"
        return f"{notes[RUNTIME]}: {notes.get(RUNTIME_REASON, '')}"

    def export(self, model: ResolvedModel, config: DeploymentConfig, folder: Path, tag: str) -> str:
        """Writes the image that would serve `model` to `folder`, as an OCI layout with that tag; returns its digest."""
        self.progress.step("Building image")
        with explaining_full_disk(self.cache):
            *_, inputs = self._possible(self._inputs(model, config), config)
            destination = Destination(OciLayout(folder), Reference("localhost", "exported", tag))
            return self._build(inputs, destination, config).identifier

    def export_dockerfile(self, model: ResolvedModel, config: DeploymentConfig, folder: Path) -> None:
        """Writes a Dockerfile for the image that would serve `model`, and the files it copies, to `folder`."""
        self.progress.step("Writing Dockerfile")
        with explaining_full_disk(self.cache):
            *_, inputs = self._possible(self._inputs(model, config), config)
            with self._spec(inputs) as spec:
                export_context(folder, spec, cache=self.cache, progress=self.progress, build_sdists=config.build_sdists)

    def _inputs(self, model: ResolvedModel, config: DeploymentConfig) -> ImageInputs:
        models = self._models()
        further = {key: models.resolve(uri, "none") for key, uri in sorted(config.models.items())}
        inputs = image_inputs(model, config, further)
        for note in inputs.served.custom_service.unused if inputs.served.custom_service else ():
            self.progress.note(note)
        for line in bento.replaced_requirements(inputs.served):
            self.progress.note(f"{line} has known security flaws, so a newer version is installed")
        if inputs.served.template == "pyfunc" and "signature" not in model.metadata:
            self.progress.note(
                "the model was logged without a signature, so the service neither checks nor converts what it is sent, "
                "and its API page does not describe it"
            )
        return inputs

    def _possible(self, inputs: ImageInputs, config: DeploymentConfig) -> Iterator[ImageInputs]:
        """Yields the inputs, then those of a native image if this machine cannot convert the model."""
        yield inputs
        if inputs.runtime != "native" and (reason := why_not_converted_here(inputs, may_convert=config.convert)):
            refuse_or_stay_native(inputs, reason, self.progress)
            yield replace(inputs, runtime="native")

    def _build(
        self,
        inputs: ImageInputs,
        destination: Destination,
        config: DeploymentConfig,
        smoke_test: SmokeTest | None = None,
    ) -> Reference:
        """Returns the image at its destination, by digest."""
        if inputs.builder != "layers" and inputs.base.registry in self.target.environment.registry_mirrors:
            raise InvalidOption(
                f"Option builder={inputs.builder}: on the local stack, the base image {inputs.base} is built from this "
                f"machine's Python; {inputs.builder} can neither pull it nor build on it.",
                hint=f"choose a base image that {inputs.builder} can pull, such as "
                "base_image=docker.io/library/python:3.11-slim",
            )
        build = (
            partial(
                build_image,
                base_registry=registry_of_base(inputs.base, self.target, self.account.registry_login),
                missing_libraries=config.missing_libraries,
                smoke_test=smoke_test,
            )
            if inputs.builder == "layers"
            else partial(build_with_engine, inputs.builder)
        )
        with self._spec(inputs) as spec:
            image = build(spec, destination, cache=self.cache, progress=self.progress, build_sdists=config.build_sdists)
        report_layers(image.report, self.progress)
        return image.reference

    @contextmanager
    def _spec(self, inputs: ImageInputs) -> Iterator[ImageSpec]:
        """Yields what the image is built from; its files are deleted when the context exits."""
        models, model = self._models(), inputs.model
        if any(line != without_credentials(line) for line in model.requirements):
            self.progress.note("the model's requirements.txt contains a password, which will be in the image")
        for one in (model, *inputs.served.further_models.values()):
            check_wheels(one, models.download)
        with tempfile.TemporaryDirectory(prefix="mlflow-fargate-") as work, self._runtime(inputs, models) as runtime:
            inputs = runtime.applied_to(inputs)
            labels = models.read_labels(model)
            with self.progress.waiting("building the Bento"):
                built = bento.build_bento(
                    inputs.served,
                    labels,
                    Path(work),
                    requirements=runtime.requirements,
                    code_only=inputs.served.custom_service is None,
                )
            self.progress.note(f"Bento {built.tag}")
            yield ImageSpec(
                base=inputs.base,
                python_version=python_of(model),
                requirements=inputs.requirements,
                service=built.source,
                model=runtime.converted(model) or models.for_image(model),
                further_models={key: models.for_image(one) for key, one in inputs.served.further_models.items()},
                platform=inputs.platform,
                compression=inputs.compression,
                normalize=inputs.normalize,
                indexes=inputs.indexes,
                system_packages=inputs.system_packages,
                labels={**image_labels(model), **runtime.labels},
                created=model.created,
            )

    @contextmanager
    def _runtime(self, inputs: ImageInputs, models: Models) -> Iterator[Runtime]:
        """Yields what runs the model in the image; a converted model's files are deleted when the context exits."""
        if inputs.runtime == "native":
            yield NATIVE
            return
        with tempfile.TemporaryDirectory(prefix="mlflow-fargate-onnx-") as folder:
            model_dir = models.download(inputs.model)
            with self.progress.waiting("converting the model"):
                runtime = choose_runtime(inputs, model_dir, Path(folder), self.cache, self.progress)
            yield runtime

    def _models(self) -> Models:
        return Models(self.account.artifacts, self.cache, self.progress)

    def _repository(self) -> ImageRepository:
        return ImageRepository(self.account, self.target.endpoint)

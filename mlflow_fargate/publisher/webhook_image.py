"""Builds the image of the webhook service: a base image, this package and its dependencies, and no model."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from platform import python_version_tuple

from mlflow_fargate.aws.account import Account
from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.image import Compression, ImageSpec, Indexes, Reference, build_image
from mlflow_fargate.progress import Progress
from mlflow_fargate.publisher.base_image import default_base_image, platform_of, registry_of_base
from mlflow_fargate.publisher.reporting import explaining_full_disk, report_layers
from mlflow_fargate.publisher.repository import ImageRepository
from mlflow_fargate.publisher.this_package import copy_package, package_requirements
from mlflow_fargate.resources import WEBHOOK, short_digest
from mlflow_fargate.target import Target

_ENTRY_POINT = ("python3", "-m", "mlflow_fargate.cli", "webhook", "serve")
_EXTRA = "webhook"
# The service builds images itself: it resolves and installs the packages that models need.
_PROGRAMS = ("uv",)


@dataclass(frozen=True)
class WebhookPublisher:
    """Builds the image of the webhook service for one endpoint and pushes it."""

    target: Target
    account: Account
    cache: Path
    progress: Progress

    def publish(self, config: DeploymentConfig) -> str:
        """Returns the image of this installation, by digest; builds and pushes it if it is missing."""
        self.progress.step("Building image")
        repository = self._repository()
        address = repository.ensure()
        with explaining_full_disk(self.cache), tempfile.TemporaryDirectory(prefix="mlflow-fargate-") as work:
            spec = _spec(config, Path(work))
            tagged = Reference.parse(f"{address}:{_tag(spec, copy_package(Path(work)))}")
            if found := repository.find(tagged):
                self.progress.note(f"the image is already in the repository: {tagged.tag}")
                return str(found)
            image = build_image(
                spec,
                repository.destination(tagged),
                cache=self.cache,
                progress=self.progress,
                base_registry=registry_of_base(spec.base, self.target, self.account.registry_login),
                missing_libraries=config.missing_libraries,
            )
        report_layers(image.report, self.progress)
        return str(image.reference)

    def find(self, config: DeploymentConfig) -> str | None:
        """Returns the image that `publish` would return, or None if it is not in the repository. Read-only."""
        repository = self._repository()
        address = repository.address()
        if address is None:
            return None
        with tempfile.TemporaryDirectory(prefix="mlflow-fargate-") as work:
            tag = _tag(_spec(config, Path(work)), copy_package(Path(work)))
        found = repository.find(Reference.parse(f"{address}:{tag}"))
        return str(found) if found else None

    def _repository(self) -> ImageRepository:
        return ImageRepository(self.account, self.target.endpoint)


def _spec(config: DeploymentConfig, service: Path) -> ImageSpec:
    platform = platform_of(config.architecture)
    python = ".".join(python_version_tuple()[:2])  # this machine's, which the package is known to run with
    return ImageSpec(
        base=Reference.parse(config.base_image or default_base_image(python)),
        python_version=python,
        requirements=(*package_requirements(_EXTRA, platform), *config.requirements),
        service=service,
        platform=platform,
        compression=Compression(config.compression),
        normalize=False,
        indexes=Indexes(config.index_url, config.extra_index_urls, config.find_links),
        system_packages=config.system_packages,
        labels={"org.opencontainers.image.title": "mlflow-fargate webhook service"},
        entry_point=_ENTRY_POINT,
        programs=_PROGRAMS,
    )


def _tag(spec: ImageSpec, code_digest: str) -> str:
    """Returns a tag that changes whenever the image would."""
    inputs = {
        "code": code_digest,
        "requirements": sorted(spec.requirements),
        "base": str(spec.base),
        "system packages": sorted(spec.system_packages),
        "platform": str(spec.platform),
        "compression": spec.compression.value,
        "start": spec.entry_point,
    }
    return f"{WEBHOOK}.{short_digest(inputs)}"

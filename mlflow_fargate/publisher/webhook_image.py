"""The image of the webhook service: a base by reference, what this package needs, this package; and no model."""

from __future__ import annotations

import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlflow_fargate.aws.account import Account
from mlflow_fargate.config import DeploymentConfig
from mlflow_fargate.image import Compression, Indexes, Reference, Registry, build_image
from mlflow_fargate.progress import Progress
from mlflow_fargate.publisher.custom_service import own_requirements, write_own_code
from mlflow_fargate.publisher.reporting import (
    default_base_image,
    find_image,
    platform_of,
    registry_of_base,
    tell_of_layers,
    telling_of_a_full_disk,
)
from mlflow_fargate.resources import WEBHOOK, digest_of
from mlflow_fargate.target import Target

_ENTRY_POINT = ("python3", "-m", "mlflow_fargate.cli", "webhook", "serve")
_EXTRA = "webhook"
# The service makes images itself: it resolves and installs what models need.
_PROGRAMS = ("uv",)


@dataclass(frozen=True)
class WebhookPublisher:
    """Makes the image of the webhook service for one endpoint and pushes it."""

    target: Target
    account: Account
    cache: Path
    progress: Progress

    def publish(self, config: DeploymentConfig) -> str:
        """The image of this package as it is installed here, by digest; built and pushed unless it is there."""
        self.progress.step("image")
        repository = self.account.endpoint(self.target.endpoint).repository
        address = repository.ensure()
        with telling_of_a_full_disk(self.cache), tempfile.TemporaryDirectory(prefix="mlflow-fargate-") as work:
            destination = Reference.parse(f"{address}:{self._tag(config, Path(work))}")
            registry = self._registry()
            if found := find_image(registry, destination):
                self.progress.note(f"the repository has it already: {destination.tag}")
                return str(found)
            newest = repository.newest_image()
            base = _base(config)
            image = build_image(
                base=base,
                base_registry=registry_of_base(base, self.target),
                requirements=_requirements(config),
                python_version=_python(),
                platform=platform_of(config.architecture),
                service=Path(work),
                model=None,
                model_key="",
                destination=destination,
                registry=registry,
                previous=destination.with_digest(newest) if newest else None,
                labels={"org.opencontainers.image.title": "mlflow-fargate webhook service"},
                compression=Compression(config.compression),
                adapt_requirements=False,
                indexes=Indexes(config.index_url, config.extra_index_urls),
                missing_libraries=config.missing_libraries,
                system_packages=config.system_packages,
                entry_point=_ENTRY_POINT,
                programs=_PROGRAMS,
                cache=self.cache,
                progress=self.progress,
            )
        tell_of_layers(image.report, self.progress)
        return str(image.reference)

    def find(self, config: DeploymentConfig) -> str | None:
        """The image that `publish` would return, if it is in the repository already; writes nothing there."""
        repository = self.account.endpoint(self.target.endpoint).repository.observe()
        if repository is None:
            return None
        with tempfile.TemporaryDirectory(prefix="mlflow-fargate-") as work:
            tag = self._tag(config, Path(work))
        found = find_image(self._registry(), Reference.parse(f"{repository['repositoryUri']}:{tag}"))
        return str(found) if found else None

    def _tag(self, config: DeploymentConfig, folder: Path) -> str:
        """Changes whenever the image would; `folder` then holds this package."""
        inputs = {
            "code": write_own_code(folder),
            "requirements": sorted(_requirements(config)),
            "base": str(_base(config)),
            "system packages": sorted(config.system_packages),
            "platform": config.architecture,
            "compression": config.compression,
            "start": _ENTRY_POINT,
        }
        return f"{WEBHOOK}.{digest_of(inputs)}"

    def _registry(self) -> Registry:
        address, user, password = self.account.registry_login()
        return Registry(address, credentials=lambda: (user, password))


def _requirements(config: DeploymentConfig) -> tuple[str, ...]:
    return (*own_requirements(_EXTRA, platform_of(config.architecture)), *config.requirements)


def _base(config: DeploymentConfig) -> Reference:
    return Reference.parse(config.base_image or default_base_image(_python()))


def _python() -> str:
    """This machine's: what the package is known to run with."""
    return ".".join(platform.python_version_tuple()[:2])

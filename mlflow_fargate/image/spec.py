"""What an image contains and where it goes: two values that every builder takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow_fargate.image.layers.application import Model
from mlflow_fargate.image.layers.layer import Compression
from mlflow_fargate.image.layers.paths import SETTINGS
from mlflow_fargate.image.oci.image import Manifest
from mlflow_fargate.image.oci.platforms import LINUX_AMD64, Platform
from mlflow_fargate.image.oci.reference import Reference
from mlflow_fargate.image.packages.requirements import normalize
from mlflow_fargate.image.packages.uv import PYPI, Indexes
from mlflow_fargate.image.registry.image_store import ImageStore
from mlflow_fargate.progress import Progress


@dataclass(frozen=True)
class ImageSpec:
    """Everything in an image: the same spec and the same lock give the same digest."""

    base: Reference
    python_version: str
    requirements: tuple[str, ...]
    service: Path  # the folder with the service's code
    model: Model | None = None  # None: a service without a model
    further_models: Mapping[str, Model] = field(default_factory=dict, hash=False)  # by the name of their folder
    platform: Platform = LINUX_AMD64
    compression: Compression = Compression.ZSTD
    normalize: bool = True  # see `requirements.normalize`
    indexes: Indexes = PYPI
    system_packages: tuple[str, ...] = ()
    # In its configuration, and as annotations in its manifest, which can be read without pulling.
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    created: datetime | None = None  # of what it contains, so that the digest does not depend on when it is built
    entry_point: tuple[str, ...] = ()  # (): BentoML's
    programs: tuple[str, ...] = ()  # packages whose binary with the same name is kept

    @property
    def settings(self) -> dict[str, Any]:
        """Returns how the image starts, in the keys of its configuration."""
        return {**SETTINGS, **({"Entrypoint": list(self.entry_point)} if self.entry_point else {})}

    def normalized_requirements(self, progress: Progress) -> tuple[str, ...]:
        """Returns the lines for uv; notes what was changed, and why."""
        lines, notes = normalize(self.requirements, machine=self.platform.machine, adapt=self.normalize)
        for note in notes:
            progress.note(note)
        return lines


@dataclass(frozen=True)
class Destination:
    """Where an image goes: `reference` in `store`; without a tag, it is tagged by its digest."""

    store: ImageStore
    reference: Reference
    previous: Reference | None = None  # an image there with layers to reuse

    @property
    def repository(self) -> str:
        return self.reference.repository

    def images(self, platform: Platform) -> list[Manifest]:
        """Returns the images in the repository whose layers can be reused."""
        identifiers = [self.reference.tag] if self.reference.tag else []
        if self.previous and self.previous.repository == self.repository:
            identifiers.append(self.previous.identifier)
        found = (self.store.find_manifest(self.repository, identifier, platform) for identifier in identifiers)
        return [image.manifest for image in found if image]

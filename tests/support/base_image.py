"""The local stack's base image, made once for all tests of a checkout: making it takes seconds."""

from __future__ import annotations

import json
import platform
from pathlib import Path

from filelock import FileLock

from mlflow_fargate.local.registry.base_image import BASE_REPOSITORY, seed_base_image
from mlflow_fargate.local.registry.store import RegistryStore
from mlflow_fargate.progress import RecordedProgress

_FOLDER = Path(__file__).resolve().parents[2] / "build" / "base-image"
MINOR = ".".join(platform.python_version_tuple()[:2])


def seed_shared_base_image(store: RegistryStore) -> str:
    """Adds the image to `store` as `seed_base_image` does, which then finds it there; returns its digest."""
    _FOLDER.parent.mkdir(exist_ok=True)
    with FileLock(f"{_FOLDER}.lock"):
        made = RegistryStore(_FOLDER)
        digest = seed_base_image(made, RecordedProgress())
        assert digest
        image = made.manifest(BASE_REPOSITORY, digest)
        parts = json.loads(image.body)
        blobs = [
            made.blob(BASE_REPOSITORY, part["digest"]).read_bytes() for part in (parts["config"], *parts["layers"])
        ]
        tags = next(one.tags for one in made.images(BASE_REPOSITORY) if one.digest == digest)
    store.create_repository(BASE_REPOSITORY)
    for blob in blobs:
        store.add_blob(BASE_REPOSITORY, blob)
    for tag in tags:
        store.put_manifest(BASE_REPOSITORY, tag, image.body, image.media_type)
    return digest

"""The service that every builder packages. It sets its base image the way BentoML's own builder expects."""

from __future__ import annotations

import os
from pathlib import Path

import bentoml

MODEL = Path(os.environ.get("MODEL_DIR", "model"))
# requirements.txt is a lock already.
IMAGE = bentoml.images.Image(
    base_image=os.environ.get("BENCHMARK_BASE", ""), python_version="3.11", lock_python_packages=False
).requirements_file("requirements.txt")


@bentoml.service(image=IMAGE)
class Service:
    """Returns the size of its model."""

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, name: str = "weights") -> int:
        return (MODEL / name).stat().st_size

"""The service that every builder packs. Its base image is asked for in the way of BentoML's own builder."""

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
    """Says how large its model is."""

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, name: str = "weights") -> int:
        return (MODEL / name).stat().st_size

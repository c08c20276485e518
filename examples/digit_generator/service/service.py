"""The walk-through's digit generator: `POST /generate_image` → {"digit_generated": 28x28 array}.

mlflow deployments create -t fargate -m models:/digit-generator/1 --name digits -C service=service.py
"""

from __future__ import annotations

from typing import Any

import bentoml
import numpy as np
from deployed import load_model

NOISE = (1, 100)


@bentoml.service(name="digit_generator")
class DigitGenerator:
    """Draws a random digit."""

    def __init__(self) -> None:
        self.generator = load_model()
        self.generate_image()  # the first prediction is slow: make it before any request

    @bentoml.api
    def generate_image(self) -> dict[str, Any]:
        """Returns a digit as 28 rows of 28 shades from 0 to 1."""
        noise = np.random.default_rng().standard_normal(NOISE).astype("float32")
        drawn = np.asarray(self.generator.predict(noise))
        return {"digit_generated": drawn.reshape(28, 28).tolist()}

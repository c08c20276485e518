"""The walk-through's ConditionalDigitGenerator: `POST /generate_conditional_image` {"number": 7} → a 28x28 array.

mlflow deployments create -t fargate -m models:/conditional-digits/1 --name digits -C service=service.py
"""

from __future__ import annotations

from typing import Annotated, Any

import bentoml
import numpy as np
from annotated_types import Ge, Le
from deployed import load_model

NOISE = (1, 100)


@bentoml.service(name="conditional_digit_generator")
class ConditionalDigitGenerator:
    """Draws the requested digit."""

    def __init__(self) -> None:
        self.generator = load_model()
        self.generate_conditional_image(0)  # the first prediction is slow: make it before any request

    @bentoml.api
    def generate_conditional_image(self, number: Annotated[int, Ge(0), Le(9)]) -> dict[str, Any]:
        """Returns the digit `number` as 28 rows of 28 shades from 0 to 1."""
        noise = np.random.default_rng().standard_normal(NOISE).astype("float32")
        label = np.array([[number]], dtype="int32")
        drawn = np.asarray(self.generator.predict({"noise": noise, "label": label}))
        return {"digit_generated": drawn.reshape(28, 28).tolist()}

"""Names a flower by its petals: `POST /name`. Deployed by examples/train_and_deploy_service.py."""

from __future__ import annotations

from typing import Annotated

import bentoml
import pandas as pd
from deployed import load_model
from pydantic import Field

NAMES = ("setosa", "versicolor", "virginica")


@bentoml.service(name="flower_names")
class FlowerNames:
    """A route with its own inputs, for a model with named columns."""

    def __init__(self) -> None:
        self.model = load_model()

    @bentoml.api
    def name(
        self, length: Annotated[float, Field(examples=[1.4])], width: Annotated[float, Field(examples=[0.2])]
    ) -> str:
        """Returns the name; the smoke test calls this with the examples before anything is deployed."""
        row = pd.DataFrame({"petal length (cm)": [length], "petal width (cm)": [width]})
        return NAMES[int(self.model.predict(row)[0])]

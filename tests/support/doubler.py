"""A model from code that is fast to log and serve: doubles its input."""

from __future__ import annotations

import mlflow


class Doubler(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        return model_input * 2


mlflow.models.set_model(Doubler())

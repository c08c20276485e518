"""Template `pyfunc`: any MLflow model, answered by MLflow's own scoring code.

Where MLflow's server is careless with the caller, this is not: a model's failure is a 500 (MLflow: 400), neither stack
traces nor the data sent come back, and what is not a number is `null` (MLflow: `NaN`, which is no JSON).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from http_errors import RequestError
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from mlflow.version import VERSION
from served_model import EXAMPLE_FILE, Answer


class ModelFailed(Exception):
    """The model's own code raised; nothing of it is for the caller."""


class PyfuncModel:
    """An MLflow model in memory."""

    def __init__(self, model: Any, model_dir: Path) -> None:
        self.version: str = VERSION
        self._model = _Guarded(model)
        self._schema = model.metadata.get_input_schema()
        self._example = model_dir / EXAMPLE_FILE

    def warm_up(self) -> bool:
        """Predicts the model's input example; False when it was logged without one."""
        if not self._example.is_file():
            return False
        self.invoke(self._example.read_bytes(), "application/json")
        return True

    def invoke(self, body: bytes, content_type: str) -> Answer:
        """MLflow's protocol: JSON in its five spellings, CSV, Parquet where pyarrow is installed."""
        # MLflow compares media types as they are written, but they have no case.
        media_type, _, parameters = content_type.lower().partition(";")
        exact = f"{media_type.strip()};{parameters.strip()}" if parameters.strip() else media_type.strip()
        try:
            result = scoring_server.invocations(body, exact, self._model, self._schema)
        except MlflowException as error:
            if isinstance(error.__context__, ModelFailed):
                raise error.__context__ from None
            raise RequestError(error.get_http_status_code(), _without_data(error.message)) from error
        return Answer(result.status, _without_nan(result.response), result.mimetype)


class _Guarded:
    """The model as the scoring code sees it; tells the model's own failures from what MLflow finds in the input."""

    def __init__(self, model: Any) -> None:
        self.metadata = model.metadata
        self._model = model

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        try:
            return self._model.predict(data, params=params)
        except MlflowException:
            raise  # the input does not fit the model's signature
        except Exception as error:
            raise ModelFailed(f"{type(error).__name__}: {error}") from error


def load_pyfunc(model_dir: Path) -> PyfuncModel:
    """The MLflow model in `model_dir`, by its `python_function` flavor."""
    return PyfuncModel(mlflow.pyfunc.load_model(str(model_dir)), model_dir)


def _without_data(message: str) -> str:
    """MLflow's message without the three places in which it repeats the data: answers end up in logs."""
    message = re.sub(r"^Failed to predict data '.*'\. \nError: ", "", message, flags=re.DOTALL)
    message = re.sub(r" of data '.*' with schema", " with schema", message, flags=re.DOTALL)
    return re.sub(r"\s*Input: \n.*$", "", message, flags=re.DOTALL)


def _without_nan(body: str) -> str:
    if "NaN" not in body and "Infinity" not in body:
        return body
    return json.dumps(json.loads(body, parse_constant=lambda _: None))

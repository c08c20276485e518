"""A model as the scoring code sees it: separates its failures from input errors, and reserves memory for answers."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException

from fargate_service.errors import RequestError, request_id
from fargate_service.memory.costs import answer_cost
from fargate_service.memory.measured import peak_bytes
from fargate_service.memory.reservation import current_reservation
from fargate_service.pyfunc.caller_mistakes import validation_reason, wrong_columns
from fargate_service.pyfunc.table_batching import TableBatcher

logger = logging.getLogger("bentoml.model")
_MEASURED_ROWS = 1024
_MARGIN = 1.5  # over what was measured: other rows can need more than the example's


class ModelFailed(Exception):
    """The model's own code raised; the caller must not see the details."""


class GuardedModel:
    """The model as the scoring code sees it; separates the model's own failures from MLflow's input errors."""

    def __init__(self, model: Any, tables: TableBatcher) -> None:
        self.metadata = model.metadata
        self._model = model
        self._tables = tables
        self.row_bytes = 0
        self._has_signature = model.metadata.get_input_schema() is not None

    def measure(self, data: Any) -> None:
        """Measures how much memory a prediction needs for each row of a table like `data`."""
        if isinstance(data, pd.DataFrame) and 0 < len(data) <= _MEASURED_ROWS:
            table = pd.concat([data] * (_MEASURED_ROWS // len(data)), ignore_index=True)
            risen = peak_bytes(lambda: self._model.predict(table))
            self.row_bytes = math.ceil(_MARGIN * (risen or 0) / len(table))

    def predict(self, data: Any, params: dict[str, Any] | None = None, *, is_checked: bool = False) -> Any:
        reservation = current_reservation()
        if isinstance(data, pd.DataFrame):
            reservation.need(len(data) * self.row_bytes)
        answer = self._predict(data, params, is_checked=is_checked)
        reservation.need(answer_cost(answer))
        return answer

    def _predict(self, data: Any, params: dict[str, Any] | None, *, is_checked: bool) -> Any:
        try:
            if params:
                return self._model.predict(data, params=params)
            return self._tables.predict(data, is_checked=is_checked)
        except (MlflowException, RequestError):
            raise  # the input does not match the model's signature, or the converted model
        except Exception as error:
            # Some models return nothing for empty input; for others, empty input is the caller's error.
            if _is_empty(data):
                raise RequestError(400, "The input has no rows or no columns.") from error
            if reason := self._mistake(error, data):
                logger.info("Request %s was rejected by the model", request_id.get(), exc_info=error)
                raise RequestError(400, reason, code="INVALID_PARAMETER_VALUE") from error
            raise ModelFailed(f"{type(error).__name__}: {error}") from error

    def _mistake(self, error: Exception, data: Any) -> str | None:
        """Returns what is wrong with the input; None if the model is broken."""
        # With a signature, MLflow has checked the columns already, so a model that lacks one is broken.
        wrong = None if self._has_signature else wrong_columns(_fitted(self._model), data)
        return wrong or validation_reason(error)


def _fitted(model: Any) -> Any:
    """Returns the library's own model; None if MLflow's wrapper does not give it."""
    try:
        return model.get_raw_model()
    except Exception:  # flavors differ in what they raise
        return None


def _is_empty(data: Any) -> bool:
    if isinstance(data, Mapping):
        return any(map(_is_empty, data.values()))
    return data.empty if isinstance(data, pd.DataFrame) else hasattr(data, "__len__") and len(data) == 0

"""Template `pyfunc`: serves any MLflow model with MLflow's own scoring code.

It differs from MLflow's server in three ways: a model's failure is a 500 (MLflow: 400), responses contain neither
stack traces nor the data sent, and NaN is written as `null` (MLflow: `NaN`, which is not valid JSON).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import scoring_server
from mlflow.version import VERSION

from fargate_service.batching.row_independence import why_pyfunc_alone
from fargate_service.errors import RequestError
from fargate_service.models.loaded_model import EXAMPLE_FILE, Batching, ScoringResponse
from fargate_service.models.table_batching import TableBatcher


class ModelFailed(Exception):
    """The model's own code raised; the caller must not see the details."""


class PyfuncModel:
    """An MLflow model in memory."""

    def __init__(self, model: Any, model_dir: Path, tables: TableBatcher) -> None:
        self.version: str = VERSION
        self._tables = tables
        self._model = _Guarded(model, tables)
        self._streaming = model if model.metadata.flavors["python_function"].get("streamable") else None
        self._schema = model.metadata.get_input_schema()
        self._example = model_dir / EXAMPLE_FILE

    @property
    def batching(self) -> Batching:
        return self._tables.batching

    def warm_up(self) -> bool:
        """Predicts the model's input example; returns False if it was logged without one."""
        if not self._example.is_file():
            return False
        self.invoke(self._example.read_bytes(), "application/json")
        return True

    def invoke(self, body: bytes, content_type: str) -> ScoringResponse:
        """Scores a request in MLflow's protocol: JSON in its five formats, CSV, Parquet if pyarrow is installed."""
        result = self._score(self._model, body, content_type)
        return ScoringResponse(result.status, _without_nan(result.response), result.mimetype)

    def stream(self, body: bytes, content_type: str) -> Iterator[Any]:
        """Returns the chunks of the model's `predict_stream`; raises RequestError 406 if it has none."""
        if self._streaming is None:
            raise RequestError(406, "This model does not stream; send 'Accept: application/json'.")
        parsing = _Parsed(self._streaming.metadata)
        try:
            refused = self._score(parsing, body, content_type)
        except _InputParsed as parsed:
            return _pieces(self._streaming, parsed.data, parsed.params)
        raise RequestError(refused.status, refused.response)

    def _score(self, model: Any, body: bytes, content_type: str) -> Any:
        # MLflow compares media types as written, but they are case-insensitive.
        media_type, _, parameters = content_type.lower().partition(";")
        exact = f"{media_type.strip()};{parameters.strip()}" if parameters.strip() else media_type.strip()
        try:
            return scoring_server.invocations(body, exact, model, self._schema)
        except MlflowException as error:
            if isinstance(failed := error.__context__, ModelFailed | RequestError):
                raise failed from failed.__cause__  # the traceback of the model's own code
            raise _refusal(error) from error


class _Guarded:
    """The model as the scoring code sees it; separates the model's own failures from MLflow's input errors."""

    def __init__(self, model: Any, tables: TableBatcher) -> None:
        self.metadata = model.metadata
        self._model = model
        self._tables = tables

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        try:
            return self._model.predict(data, params=params) if params else self._tables.predict(data)
        except (MlflowException, RequestError):
            raise  # the input does not match the model's signature, or the converted model
        except Exception as error:
            # Some models return nothing for empty input; for others, empty input is the caller's error.
            if _is_empty(data):
                raise RequestError(400, "The input has no rows or no columns.") from error
            raise ModelFailed(f"{type(error).__name__}: {error}") from error


class _InputParsed(BaseException):
    """Not an error: carries the parsed input past the scoring code's `except Exception`."""

    def __init__(self, data: Any, params: Mapping[str, Any] | None) -> None:
        super().__init__()
        self.data = data
        self.params = params


class _Parsed:
    """Replaces the model in the scoring code: MLflow's parsing is only available together with predicting."""

    def __init__(self, metadata: Any) -> None:
        self.metadata = metadata

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        raise _InputParsed(data, params)


def load_pyfunc(model_dir: Path, *, batching: bool | None = None, implementation: Any | None = None) -> PyfuncModel:
    """Returns the MLflow model in `model_dir`, by its `python_function` flavor; `implementation` replaces its code.

    `batching` sets whether requests can share predictions; None: if the model's rows are known to be independent,
    which an `implementation` declares in its `why_alone`.
    """
    model = as_pyfunc(model_dir, implementation) if implementation else mlflow.pyfunc.load_model(str(model_dir))
    why_alone = implementation.why_alone if implementation else why_pyfunc_alone(model)
    tables = TableBatcher(model.predict, asked=batching, why_alone=why_alone)
    return PyfuncModel(model, model_dir, tables)


def as_pyfunc(model_dir: Path, implementation: Any) -> Any:
    """Returns `implementation` as an mlflow.pyfunc.PyFuncModel that checks input by the signature in `model_dir`."""
    return mlflow.pyfunc.PyFuncModel(Model.load(str(model_dir)), implementation)


def _pieces(model: Any, data: Any, params: Mapping[str, Any] | None) -> Iterator[Any]:
    try:
        yield from model.predict_stream(data, params=params)
    except MlflowException as error:
        raise _refusal(error) from error


def _is_empty(data: Any) -> bool:
    if isinstance(data, Mapping):
        return any(map(_is_empty, data.values()))
    return data.empty if isinstance(data, pd.DataFrame) else hasattr(data, "__len__") and len(data) == 0


def _refusal(error: MlflowException) -> Exception:
    status = error.get_http_status_code()
    if status >= 500:  # nothing the caller could fix
        return ModelFailed(f"{type(error).__name__}: {error}")
    return RequestError(status, _without_data(error.message), code=error.error_code)


def _without_data(message: str) -> str:
    """Removes the data and schema that MLflow's message repeats: responses end up in logs."""
    # Of other libraries' errors, only JSON's are kept; the others quote the data they could not read.
    message = re.sub(r" Error: '(?!JSONDecodeError\()\w+\(.*$", "", message, flags=re.DOTALL)
    message = re.sub(r" for value `.*`", "", message, flags=re.DOTALL)
    message = re.sub(r"^Failed to predict data '.*'\. \nError: ", "", message, flags=re.DOTALL)
    message = re.sub(r" of data '.*' with schema", " with schema", message, flags=re.DOTALL)
    message = re.sub(r" with schema '.*'\. Error: ", ". Error: ", message, flags=re.DOTALL)
    return re.sub(r"\s*Input: \n.*$", "", message, flags=re.DOTALL)


def _without_nan(body: str) -> str:
    if "NaN" not in body and "Infinity" not in body:
        return body
    return json.dumps(json.loads(body, parse_constant=lambda _: None))

"""Template `pyfunc`: any MLflow model, answered by MLflow's own scoring code.

Where MLflow's server is careless with the caller, this is not: a model's failure is a 500 (MLflow: 400), neither stack
traces nor the data sent come back, and what is not a number is `null` (MLflow: `NaN`, which is no JSON).
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
    """The model's own code raised; nothing of it is for the caller."""


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
        """Predicts the model's input example; False when it was logged without one."""
        if not self._example.is_file():
            return False
        self.invoke(self._example.read_bytes(), "application/json")
        return True

    def invoke(self, body: bytes, content_type: str) -> ScoringResponse:
        """MLflow's protocol: JSON in its five spellings, CSV, Parquet where pyarrow is installed."""
        result = self._score(self._model, body, content_type)
        return ScoringResponse(result.status, _without_nan(result.response), result.mimetype)

    def stream(self, body: bytes, content_type: str) -> Iterator[Any]:
        """The pieces of the model's `predict_stream`; RequestError 406 when it has none."""
        if self._streaming is None:
            raise RequestError(406, "This model answers in one piece; ask for application/json.")
        parsing = _Parsed(self._streaming.metadata)
        try:
            refused = self._score(parsing, body, content_type)
        except _InputParsed as parsed:
            return _pieces(self._streaming, parsed.data, parsed.params)
        raise RequestError(refused.status, refused.response)

    def _score(self, model: Any, body: bytes, content_type: str) -> Any:
        # MLflow compares media types as they are written, but they have no case.
        media_type, _, parameters = content_type.lower().partition(";")
        exact = f"{media_type.strip()};{parameters.strip()}" if parameters.strip() else media_type.strip()
        try:
            return scoring_server.invocations(body, exact, model, self._schema)
        except MlflowException as error:
            if isinstance(error.__context__, ModelFailed | RequestError):
                raise error.__context__ from None
            raise _refusal(error) from error


class _Guarded:
    """The model as the scoring code sees it; tells the model's own failures from what MLflow finds in the input."""

    def __init__(self, model: Any, tables: TableBatcher) -> None:
        self.metadata = model.metadata
        self._model = model
        self._tables = tables

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        try:
            return self._model.predict(data, params=params) if params else self._tables.predict(data)
        except (MlflowException, RequestError):
            raise  # the input does not fit the model's signature, or not what was converted
        except Exception as error:
            # Some models answer nothing with nothing; of the others it was too much asked.
            if _is_empty(data):
                raise RequestError(400, "The input holds no rows, or no columns.") from error
            raise ModelFailed(f"{type(error).__name__}: {error}") from error


class _InputParsed(BaseException):
    """Not an error: carries what the scoring code has read out past its `except Exception`."""

    def __init__(self, data: Any, params: Mapping[str, Any] | None) -> None:
        super().__init__()
        self.data = data
        self.params = params


class _Parsed:
    """Stands where the scoring code expects a model: MLflow offers its parsing only together with predicting."""

    def __init__(self, metadata: Any) -> None:
        self.metadata = metadata

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        raise _InputParsed(data, params)


def load_pyfunc(model_dir: Path, *, batching: bool | None = None, implementation: Any | None = None) -> PyfuncModel:
    """The MLflow model in `model_dir`, by its `python_function` flavor; `implementation` computes in its place.

    `batching` says whether requests may be predicted together; None: if the model's rows are known to be independent,
    which an `implementation` says in its `why_alone`.
    """
    model = as_pyfunc(model_dir, implementation) if implementation else mlflow.pyfunc.load_model(str(model_dir))
    why_alone = implementation.why_alone if implementation else why_pyfunc_alone(model)
    tables = TableBatcher(model.predict, asked=batching, why_alone=why_alone)
    return PyfuncModel(model, model_dir, tables)


def as_pyfunc(model_dir: Path, implementation: Any) -> Any:
    """`implementation` as an mlflow.pyfunc.PyFuncModel that checks its input by the signature of `model_dir`."""
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
    if status >= 500:  # nothing the caller could mend
        return ModelFailed(f"{type(error).__name__}: {error}")
    return RequestError(status, _without_data(error.message), code=error.error_code)


def _without_data(message: str) -> str:
    """MLflow's message without the places in which it repeats data or schema: answers end up in logs."""
    # Of other libraries' errors only where JSON breaks is told; the others quote what they could not read.
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

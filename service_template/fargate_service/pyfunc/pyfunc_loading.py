"""Loads a model's python_function flavor, and finds out how its input may be read and its predictions shared."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow.models import Model

from fargate_service.batching.row_independence import is_known_loader, why_pyfunc_alone
from fargate_service.pyfunc.named_columns import without_names
from fargate_service.pyfunc.pyfunc_model import PyfuncModel
from fargate_service.pyfunc.table_batching import TableBatcher
from fargate_service.settings import DEFAULT_DOCUMENT_LIMITS, DocumentLimits


def load_pyfunc(
    model_dir: Path,
    *,
    batching: bool | None = None,
    implementation: Any | None = None,
    limits: DocumentLimits = DEFAULT_DOCUMENT_LIMITS,
) -> PyfuncModel:
    """Returns the MLflow model in `model_dir`, by its `python_function` flavor; `implementation` replaces its code.

    `batching` sets whether requests can share predictions; None: if the model's rows are known to be independent,
    which an `implementation` declares in its `why_alone`.
    """
    model = as_pyfunc(model_dir, implementation) if implementation else mlflow.pyfunc.load_model(str(model_dir))
    why_alone = implementation.why_alone if implementation else why_pyfunc_alone(model)
    checked = implementation.predict if implementation else _without_checks(model)
    tables = TableBatcher(model.predict, asked=batching, why_alone=why_alone, predict_checked=checked)
    return PyfuncModel(model, model_dir, tables, limits=limits)


def _without_checks(model: Any) -> Callable[[Any], Any]:
    """Returns what predicts data that matches the signature: the flavor's own wrapper, where that is all there is."""
    conf = model.metadata.flavors["python_function"]
    if not is_known_loader(conf):
        return model.predict  # type: ignore[no-any-return]
    predict = getattr(model._model_impl, conf.get("predict_fn", "predict"))
    params = inspect.signature(predict).parameters.get("params")
    has_params = params is not None and params.kind is not params.VAR_KEYWORD  # as scikit-learn's pipelines
    checked = partial(predict, params=None) if has_params else predict
    schema = model.metadata.get_input_schema()
    if schema is None or schema.is_tensor_spec() or len(set(schema.input_types())) != 1:
        return checked
    return without_names(checked, model.get_raw_model(), schema.input_names())


def as_pyfunc(model_dir: Path, implementation: Any) -> Any:
    """Returns `implementation` as an mlflow.pyfunc.PyFuncModel that checks input by the signature in `model_dir`."""
    return mlflow.pyfunc.PyFuncModel(Model.load(str(model_dir)), implementation)

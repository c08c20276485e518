"""Flavors of models: those that MLflow has, and whether a model has the one that was asked for."""

from __future__ import annotations

from mlflow_fargate.errors import InvalidOption, ModelNotFound
from mlflow_fargate.resolved_model import ResolvedModel

# Those that MLflow itself can log a model with; a model may carry one of its own.
# https://mlflow.org/docs/latest/ml/model/#built-in-model-flavors
# fmt: off
_FLAVORS = frozenset({
    "catboost", "diviner", "dspy", "fastai", "gluon", "h2o", "haystack", "keras", "langchain", "lightgbm",
    "llama_index", "onnx", "openai", "paddle", "pmdarima", "promptflow", "prophet", "python_function", "pytorch",
    "sentence_transformers", "shap", "sklearn", "spacy", "spark", "statsmodels", "tensorflow",
    "transformers", "xgboost",
})
# fmt: on


def check_flavor(model: ResolvedModel, flavor: str | None) -> None:
    """ModelNotFound when the model has no such flavor, InvalidOption when no model has; so does MLflow's contract.

    Which flavor is named changes nothing else: the service template picks how to load a model by what it is.
    """
    if flavor is None or flavor in model.flavors:
        return
    known = ", ".join(sorted(model.flavors))
    if flavor not in _FLAVORS:
        raise InvalidOption(f"'{flavor}' is not a flavor of MLflow.", hint=f"{model.requested_uri} has: {known}")
    raise ModelNotFound(f"{model.requested_uri} has no flavor '{flavor}'.", hint=f"it has: {known}")

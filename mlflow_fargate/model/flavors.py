"""Model flavors: those that MLflow has, and whether a model has the requested one."""

from __future__ import annotations

from mlflow_fargate.errors import InvalidOption, ModelNotFound
from mlflow_fargate.resolved_model import ResolvedModel

# MLflow's built-in flavors; a model can have custom ones too.
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
    """Raises ModelNotFound if the model lacks the flavor, InvalidOption if no such flavor exists, as MLflow requires.

    The flavor has no other effect: the service template decides how to load a model.
    """
    if flavor is None or flavor in model.flavors:
        return
    known = ", ".join(sorted(model.flavors))
    if flavor not in _FLAVORS:
        raise InvalidOption(
            f"'{flavor}' is not an MLflow flavor.", hint=f"the flavors of '{model.requested_uri}' are: {known}"
        )
    raise ModelNotFound(f"'{model.requested_uri}' has no flavor '{flavor}'.", hint=f"its flavors are: {known}")

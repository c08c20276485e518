"""Model flavors: those that MLflow has, and whether a model has the requested one."""

from __future__ import annotations

from mlflow_fargate.errors import InvalidOption, ModelNotFound, ModelUnusable
from mlflow_fargate.resolved_model import DEFAULT_FLAVOR, EXPLAINER_FLAVOR, ResolvedModel

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

    An explainer is deployed only if its flavor is requested, because it answers with explanations, not predictions.
    The flavor has no other effect: the service template decides how to load a model.
    """
    if flavor in (None, DEFAULT_FLAVOR) and EXPLAINER_FLAVOR in model.flavors:
        raise ModelUnusable(
            f"'{model.requested_uri}' is an explainer, not a model: it returns SHAP values instead of predictions.",
            hint=f"to deploy it for explain(): -f {EXPLAINER_FLAVOR}; the model that it explains is another one",
        )
    if flavor is None or flavor in model.flavors:
        return
    known = ", ".join(sorted(model.flavors))
    if flavor not in _FLAVORS:
        raise InvalidOption(
            f"'{flavor}' is not an MLflow flavor.", hint=f"the flavors of '{model.requested_uri}' are: {known}"
        )
    raise ModelNotFound(f"'{model.requested_uri}' has no flavor '{flavor}'.", hint=f"its flavors are: {known}")

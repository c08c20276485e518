"""A fitted model of every scikit-learn estimator that is listed as treating each row independently."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_classification
from sklearn.experimental import enable_halving_search_cv  # noqa: F401  # for all_estimators()
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import all_estimators

ROWS, CLASSES = make_classification(90, 5, n_informative=4, n_redundant=0, n_classes=3, random_state=0)
ROWS = np.abs(ROWS)
TEXTS = ["one text", "another text", "a third"] * 30
PARAMETERS: dict[str, dict[str, Any]] = {
    "ColumnTransformer": {"transformers": [("a", StandardScaler(), [0, 1]), ("b", "passthrough", [2])]},
    "FeatureUnion": {"transformer_list": [("a", StandardScaler())]},
    "FrozenEstimator": {"estimator": LogisticRegression().fit(ROWS, CLASSES)},
    "GaussianRandomProjection": {"n_components": 2},
    "GridSearchCV": {"param_grid": {"C": [1, 2]}},
    "HalvingGridSearchCV": {"param_grid": {"C": [1, 2]}},
    "HalvingRandomSearchCV": {"param_distributions": {"C": [1, 2]}},
    "Pipeline": {"steps": [("a", LogisticRegression())]},
    "RandomizedSearchCV": {"param_distributions": {"C": [1, 2]}, "n_iter": 2},
    "SelfTrainingClassifier": {"estimator": LogisticRegression()},
    "SparseRandomProjection": {"n_components": 2},
    "DummyClassifier": {"strategy": "prior"},
    "HistGradientBoostingClassifier": {"max_iter": 2},
    "HistGradientBoostingRegressor": {"max_iter": 2},
}
SMALL = {"n_estimators": 3, "cv": 2, "Cs": 2}
# Only parts of other estimators: they are never given a table.
PARTS = frozenset(
    {
        "LabelEncoder",
        "LabelBinarizer",
        "MultiLabelBinarizer",
        "_BinMapper",
        "_ConstantPredictor",
        "_SigmoidCalibration",
        "_TemperatureScaling",
    }
)
KINDS: dict[str, Any] = dict(all_estimators())


def fit_listed(name: str) -> Any:
    """Returns the estimator of this name, fitted."""
    kind = KINDS[name]
    parameters = inspect.signature(kind).parameters
    given = dict(PARAMETERS.get(name, {}))
    base = Ridge() if "Regress" in name else LogisticRegression()
    if "estimator" in parameters and parameters["estimator"].default is inspect.Parameter.empty:
        given.setdefault("estimator", base)
    if "estimators" in parameters:
        given["estimators"] = [("a", base), ("b", base)]
    for parameter, value in SMALL.items():
        if parameter in parameters:
            given.setdefault(parameter, value)
    model = kind(**given)
    if name in ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer", "TfidfTransformer"):
        return model.fit(TEXTS if "Vectorizer" in name else ROWS)
    rows, target = ROWS, CLASSES + 1.0 if "Regress" in name else CLASSES
    if name.startswith("MultiTask") or "MultiOutput" in name or "Chain" in name:
        target = np.c_[CLASSES > 0, CLASSES > 1]
    if "ThresholdClassifier" in name:
        target = CLASSES > 0
    return model.fit(rows[:, :1] if name == "IsotonicRegression" else rows, target)


def fit_to_serve(name: str) -> tuple[Any, pd.DataFrame]:
    """Returns a model that predicts, which is or contains the estimator of this name, and rows for it."""
    table = pd.DataFrame(ROWS, columns=list("abcde"))
    model = fit_listed(name)
    if hasattr(model, "predict"):
        return model, table[["a"]] if name == "IsotonicRegression" else table
    if name.endswith("Vectorizer"):
        table = table.assign(text=TEXTS)
        columns = make_column_transformer((clone(model), "text"), remainder="passthrough")
        return make_pipeline(columns, LinearRegression()).fit(table, CLASSES), table
    # Beside the rows themselves, so that every answer is different.
    both = make_union(clone(model), FunctionTransformer())
    return make_pipeline(both, LinearRegression()).fit(table, CLASSES), table

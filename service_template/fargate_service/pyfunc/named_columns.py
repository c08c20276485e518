"""Gives scikit-learn models arrays instead of tables, where the names of columns cost time and change nothing.

For one row, checking the names in a DataFrame and converting it takes longer than a linear model. It changes nothing if
the model's first part uses columns by position, and was fitted to the signature's columns in their order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from fargate_service.batching.row_independence import library_of

# What these do with a table begins with converting it. ColumnTransformer, for example, selects columns by name.
_NAMES = """
StandardScaler MinMaxScaler MaxAbsScaler RobustScaler Normalizer PolynomialFeatures PCA LogisticRegression
LinearRegression Ridge RidgeClassifier Lasso ElasticNet LinearSVC LinearSVR SVC SVR MLPClassifier MLPRegressor
RandomForestClassifier RandomForestRegressor ExtraTreesClassifier ExtraTreesRegressor GradientBoostingClassifier
GradientBoostingRegressor DecisionTreeClassifier DecisionTreeRegressor KMeans GaussianNB
"""
_BY_POSITION = frozenset(_NAMES.split())


def without_names(predict: Callable[[Any], Any], model: Any, names: Sequence[str]) -> Callable[[Any], Any]:
    """Returns `predict` for tables of one type, which gives `model` only the values if it uses nothing else."""
    if not _uses_positions(model, names):
        return predict
    warnings.filterwarnings("ignore", "X does not have valid feature names")
    return lambda table: predict(table.to_numpy())


def _uses_positions(model: Any, names: Sequence[str]) -> bool:
    steps = [step for _, step in model.steps] if type(model).__name__ == "Pipeline" else [model]
    if library_of(type(model)) != "sklearn" or library_of(type(steps[0])) != "sklearn":
        return False
    fitted = getattr(steps[0], "feature_names_in_", None)
    makes_tables = any(getattr(step, "_sklearn_output_config", None) for step in (model, *steps))
    is_listed = type(steps[0]).__name__ in _BY_POSITION
    return is_listed and not makes_tables and (fitted is None or list(fitted) == list(names))

"""Gives scikit-learn's and XGBoost's models arrays, where the names of a table's columns cost time and change nothing.

For one row, checking the names in a DataFrame and converting it takes longer than a linear model, or than the trees of
XGBoost. It changes nothing if the model's first part uses columns by position, and was fitted to the signature's
columns in their order.
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
_BY_POSITION = {
    "sklearn": frozenset(_NAMES.split()),
    "xgboost": frozenset({"XGBClassifier", "XGBRegressor", "XGBRFClassifier", "XGBRFRegressor"}),
}


def without_names(predict: Callable[[Any], Any], model: Any, names: Sequence[str]) -> Callable[[Any], Any]:
    """Returns `predict` for tables of one type, which gives `model` only the values if it uses nothing else."""
    if not _uses_positions(model, names):
        return predict
    warnings.filterwarnings("ignore", "X does not have valid feature names")
    return lambda table: predict(table.to_numpy())


def _uses_positions(model: Any, names: Sequence[str]) -> bool:
    steps = [step for _, step in model.steps] if type(model).__name__ == "Pipeline" else [model]
    first, library = type(steps[0]), library_of(type(steps[0]))
    if library not in _BY_POSITION or library_of(type(model)) not in _BY_POSITION:
        return False
    if library == "xgboost" and not _is_predicted_in_place(steps[0]):
        return False
    fitted = getattr(steps[0], "feature_names_in_", None)
    makes_tables = any(getattr(step, "_sklearn_output_config", None) for step in (model, *steps))
    is_listed = first.__name__ in _BY_POSITION[library]
    return is_listed and not makes_tables and (fitted is None or list(fitted) == list(names))


def _is_predicted_in_place(model: Any) -> bool:
    """Returns whether XGBoost takes arrays as they are; linear boosters and old releases compare names."""
    is_in_place = getattr(model, "_can_use_inplace_predict", lambda: False)
    return getattr(model, "enable_categorical", None) is False and bool(is_in_place())

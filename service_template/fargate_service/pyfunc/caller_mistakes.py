"""Tells a caller's mistake from a broken model, where no signature has checked the input. Pure.

A model that was fitted to columns records them. Otherwise it counts where the exception was raised: a library of models
describes the input that it expects, but what a model's own code raises says nothing about who is to blame.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import pandas as pd

_OF_VALIDATION = (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError)
_LIBRARIES = frozenset({"sklearn", "xgboost", "lightgbm", "catboost", "statsmodels", "pandas", "numpy", "scipy"})
# Around and between the frames of these libraries.
_NEUTRAL = sys.stdlib_module_names | {"mlflow", "fargate_service", "joblib", "threadpoolctl"}
# In this order: scikit-learn and its relatives, CatBoost, XGBoost's Booster, LightGBM's.
_NAMES = ("feature_names_in_", "feature_names_", "feature_names", "feature_name")
_LISTED = 10


def wrong_columns(model: Any, data: Any) -> str | None:
    """Returns how a table differs from the columns that `model` was fitted with; None if it does not, or is unknown."""
    if not isinstance(data, pd.DataFrame):
        return None
    given = set(data.columns)
    missing = [str(name) for name in _fitted_names(model) if name not in given]
    if missing:
        listed = ", ".join(missing[:_LISTED]) + (", …" if len(missing) > _LISTED else "")
        return f"The input lacks columns that the model was fitted with: {listed}."
    count = getattr(model, "n_features_in_", None)
    if isinstance(count, int) and data.shape[1] != count:
        return f"The model was fitted with {count} columns, and the input has {data.shape[1]}."
    return None


def validation_reason(error: Exception) -> str | None:
    """Returns why a library rejected its input, without data; None if that is not what happened."""
    packages = _packages(error) - _NEUTRAL
    if not isinstance(error, _OF_VALIDATION) or not packages or packages - _LIBRARIES:
        return None
    # Values are quoted, in brackets, or after a colon.
    first_line = next(iter(str(error).splitlines()), "")
    said = re.split(r"[:'\"`\[({=]", first_line, maxsplit=1)[0].strip()
    return f"The model rejected this input: {said or type(error).__name__}"


def _fitted_names(model: Any) -> list[Any]:
    for attribute in _NAMES:
        names = getattr(model, attribute, None)
        names = names() if callable(names) else names
        if names is not None:
            return list(names)
    return []


def _packages(error: BaseException) -> set[str]:
    """Returns the top-level packages of the code that `error` has passed through."""
    trace, packages = error.__traceback__, set()
    while trace is not None:
        packages.add(str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0])
        trace = trace.tb_next
    return packages

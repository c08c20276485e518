"""Tells a caller's mistake from a broken model, where no signature has checked the input. Pure.

A model that was fitted to columns records them. Otherwise an exception that validation raises counts as the caller's
mistake, as long as the model still answers its own input example (the caller of this module checks that).
"""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

_OF_VALIDATION = (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError)
# Their messages describe what they expect. A model's own code can put anything into a message.
_LIBRARIES = frozenset({"sklearn", "xgboost", "lightgbm", "catboost", "statsmodels", "pandas", "numpy", "scipy"})
_LISTED = 10


def wrong_columns(model: Any, data: Any) -> str | None:
    """Returns how a table differs from the columns that `model` was fitted with; None if it does not, or is unknown."""
    if not isinstance(data, pd.DataFrame):
        return None
    names, count = getattr(model, "feature_names_in_", None), getattr(model, "n_features_in_", None)
    if names is not None:
        given = set(data.columns)
        missing = [str(name) for name in names if name not in given]
        if missing:
            listed = ", ".join(missing[:_LISTED]) + (", …" if len(missing) > _LISTED else "")
            return f"The input lacks columns that the model was fitted with: {listed}."
    if isinstance(count, int) and data.shape[1] != count:
        return f"The model was fitted with {count} columns, and the input has {data.shape[1]}."
    return None


def validation_reason(error: Exception) -> str | None:
    """Returns why a library or the model's code rejected its input, without data; None if that is not what happened."""
    if not isinstance(error, _OF_VALIDATION):
        return None
    kind = type(error).__name__
    if _raised_in(error) not in _LIBRARIES:
        return f"The model rejected this input ({kind}); see the container's log."
    # Values are quoted, in brackets, or after a colon.
    first_line = next(iter(str(error).splitlines()), "")
    said = re.split(r"[:'\"`\[({=]", first_line, maxsplit=1)[0].strip()
    return f"The model rejected this input: {said or kind}"


def _raised_in(error: BaseException) -> str:
    """Returns the top-level package of the code that raised `error`."""
    trace, package = error.__traceback__, ""
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        trace = trace.tb_next
    return package

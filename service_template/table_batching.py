"""Which tabular models may predict the rows of several requests at once, and how tables meet and part. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

# Libraries whose `predict` looks at each row alone. What a model of one's own code does with rows nobody knows, and
# statsmodels, prophet and their like predict series.
_ROW_BY_ROW = frozenset({"sklearn", "xgboost", "lightgbm", "catboost"})


def is_batchable(flavors: Mapping[str, Any]) -> bool:
    """Whether rows of different requests may be predicted together without changing an answer."""
    own = set(flavors) - {"python_function"}
    return bool(own) and own <= _ROW_BY_ROW


def kind_of_table(data: Any) -> Hashable | None:
    """What two tables have to have in common to be joined; None for what is no table with rows."""
    if not isinstance(data, pd.DataFrame) or data.empty:
        return None
    return tuple(map(str, data.columns)), tuple(map(str, data.dtypes))


def join_tables(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table with the rows of all."""
    return pd.concat(tables, ignore_index=True)


def split_predictions(predictions: Any, counts: Sequence[int]) -> list[Any]:
    """The predictions of each table, of so many rows; ValueError when there is not one for each row."""
    if not isinstance(predictions, np.ndarray | pd.DataFrame | pd.Series | list) or len(predictions) != sum(counts):
        raise ValueError("the model does not answer with one prediction a row")
    ends = np.cumsum(counts)
    starts = ends - np.asarray(counts)
    if isinstance(predictions, pd.DataFrame | pd.Series):
        return [predictions.iloc[a:b].reset_index(drop=True) for a, b in zip(starts, ends, strict=True)]
    return [predictions[a:b] for a, b in zip(starts, ends, strict=True)]

"""Which models of scikit-learn and XGBoost get arrays instead of tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from fargate_service.pyfunc.named_columns import without_names

TABLE = pd.DataFrame(np.random.default_rng(1).normal(size=(40, 3)), columns=["a", "b", "c"])
CLASSES = np.arange(40) % 2


class Own(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    def fit(self, data: Any, _: Any = None) -> Own:
        return self

    def transform(self, data: Any) -> Any:
        return data[["a"]]


def given(model: Any, names: list[str]) -> tuple[type, Any]:
    """Returns the type of what the model gets for a table, and its answers."""
    seen: list[type] = []

    def predict(data: Any) -> Any:
        seen.append(type(data))
        return model.predict(data)

    answers = without_names(predict, model, names)(TABLE)
    return seen[0], answers


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        make_pipeline(StandardScaler(), FunctionTransformer(np.abs), LogisticRegression()),
        RandomForestClassifier(3),
        LogisticRegression(),
    ],
    ids=["pipeline", "a function between", "forest", "linear"],
)
def test_a_model_that_uses_columns_by_position_gets_an_array_and_gives_the_same_answers(model: Any) -> None:
    model.fit(TABLE, CLASSES)

    kind, answers = given(model, ["a", "b", "c"])

    assert kind is np.ndarray
    assert answers.tolist() == model.predict(TABLE).tolist()


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(make_column_transformer((StandardScaler(), ["a"])), LogisticRegression()),
        make_pipeline(FunctionTransformer(lambda table: table[["b"]]), LogisticRegression()),
        make_pipeline(Own(), LogisticRegression()),
        make_pipeline(StandardScaler().set_output(transform="pandas"), Own(), LogisticRegression()),
    ],
    ids=["columns by name", "a function", "a custom class", "tables between the steps"],
)
def test_a_model_that_can_use_names_gets_the_table(model: Any) -> None:
    model.fit(TABLE, CLASSES)

    assert given(model, ["a", "b", "c"])[0] is pd.DataFrame


def make_xgboost(**options: Any) -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=3, **options).fit(TABLE, CLASSES)


@pytest.mark.exhaustive
def test_trees_of_xgboost_get_an_array_and_give_the_same_answers() -> None:
    model = make_xgboost()

    kind, answers = given(model, ["a", "b", "c"])

    assert kind is np.ndarray
    assert answers.tolist() == model.predict(TABLE).tolist()


@pytest.mark.exhaustive
@pytest.mark.parametrize("options", [{"booster": "gblinear"}, {"enable_categorical": True}], ids=str)
def test_an_xgboost_model_that_compares_names_or_has_categories_gets_the_table(options: dict[str, Any]) -> None:
    assert given(make_xgboost(**options), ["a", "b", "c"])[0] is pd.DataFrame


def test_a_model_that_was_fitted_to_other_columns_gets_the_table_and_rejects_it() -> None:
    model = LogisticRegression().fit(TABLE[["c", "b", "a"]], CLASSES)

    with pytest.raises(ValueError, match="feature names"):
        given(model, ["a", "b", "c"])

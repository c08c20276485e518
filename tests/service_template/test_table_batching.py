"""Tables that share a prediction: each caller gets only the model's answers to its own rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_multilabel_classification
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from fargate_service.batching.row_independence import why_alone
from fargate_service.models.loaded_model import Batching
from fargate_service.pyfunc.table_batching import (
    MAX_BATCH_ROWS,
    TableBatcher,
    join_tables,
    kind_of_table,
    split_predictions,
)

COLUMNS = ["a", "b", "c", "d"]
ROWS, LABELS = make_multilabel_classification(n_samples=80, n_features=4, n_classes=2, random_state=0)
TABLE = pd.DataFrame(ROWS, columns=COLUMNS)
NUMBERS = ROWS @ [1.0, -2.0, 0.5, 3.0]
NOT_ROW_BY_ROW = "off: the model's answers are not arrays with one item per row"


class Centered(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Subtracts the mean of the batch, so that every answer depends on the other callers' rows."""

    def fit(self, rows: Any, _: Any = None) -> Centered:
        return self

    def transform(self, rows: Any) -> Any:
        return rows - rows.mean(axis=0)


def forest(**options: Any) -> Any:
    return RandomForestClassifier(n_estimators=5, random_state=0, **options)


# A fitted model, and the method that MLflow calls.
MODELS: dict[str, tuple[Any, str]] = {
    "forest": (forest().fit(TABLE, LABELS[:, 0]), "predict_proba"),
    "forest of two outputs": (forest().fit(TABLE, LABELS), "predict"),
    "forest of two outputs, probabilities": (forest().fit(TABLE, LABELS), "predict_proba"),
    "an estimator an output, probabilities": (
        MultiOutputClassifier(LogisticRegression()).fit(TABLE, LABELS),
        "predict_proba",
    ),
    "sparse labels": (OneVsRestClassifier(forest()).fit(TABLE, scipy.sparse.csr_matrix(LABELS)), "predict"),
    "texts as classes": (forest().fit(TABLE, np.array(["no", "yes"])[LABELS[:, 0]]), "predict"),
    "tables between the steps": (
        make_pipeline(StandardScaler(), RandomForestRegressor(5)).set_output(transform="pandas").fit(TABLE, NUMBERS),
        "predict",
    ),
    "columns": (
        make_pipeline(
            make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["a"]), remainder="passthrough"),
            LinearRegression(),
        ).fit(TABLE, NUMBERS),
        "predict",
    ),
    "a custom step": (make_pipeline(Centered(), LinearRegression()).fit(TABLE, NUMBERS), "predict"),
    "a function as a step": (
        make_pipeline(FunctionTransformer(lambda rows: rows / rows.max()), LinearRegression()).fit(TABLE, NUMBERS),
        "predict",
    ),
}
SHARING = {"forest", "forest of two outputs", "texts as classes", "tables between the steps", "columns"}


class Gate:
    """Calls `predict`; once closed, the first call waits, so that the others queue behind it."""

    def __init__(self, predict: Callable[[Any], Any]) -> None:
        self.counts: list[int] = []
        self.opened = threading.Event()
        self.opened.set()
        self._predict = predict

    def __call__(self, table: Any) -> Any:
        self.counts.append(len(table))
        self.opened.wait(30)
        return self._predict(table)


def answers_to(batcher: TableBatcher, gate: Gate, tables: Sequence[pd.DataFrame]) -> list[Any]:
    """Returns the results of callers that all call before the first of them has its result."""
    gate.opened.clear()
    gate.counts.clear()
    with ThreadPoolExecutor(len(tables)) as threads:
        asked = [threads.submit(batcher.predict, table) for table in tables]
        while len(gate.counts) + len(batcher._batcher._waiting) < len(tables):
            threading.Event().wait(0.001)
        gate.opened.set()
        return [one.result(30) for one in asked]


def make(predict: Callable[[Any], Any], *, asked: bool | None = None, why: str | None = None) -> Any:
    gate = Gate(predict)
    return TableBatcher(gate, asked=asked, why_alone=why), gate


def assert_same(one: Any, other: Any) -> None:
    if scipy.sparse.issparse(other):
        one, other = one.toarray(), other.toarray()
    assert type(one) is type(other)
    assert np.shape(one) == np.shape(other)
    if np.asarray(other).dtype.kind == "f":
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-9, atol=1e-12)
    else:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


PARTS = st.lists(
    st.lists(st.integers(0, len(TABLE) - 1), min_size=1, max_size=3), min_size=2, max_size=4
)  # rows of each caller


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=10)
@given(example=st.booleans(), parts=PARTS)
def test_each_caller_gets_the_models_answers_to_its_rows_alone(
    name: str, example: bool, parts: list[list[int]]
) -> None:
    model, method = MODELS[name]
    predict = getattr(model, method)
    batcher, gate = make(predict, why=why_alone(model))
    tables = [TABLE.iloc[rows].reset_index(drop=True) for rows in parts]
    if example:
        batcher.predict(TABLE.head(2))

    for table, answer in zip(tables, answers_to(batcher, gate, tables), strict=True):
        assert_same(answer, predict(table))
    assert batcher.batching.is_on == (name in SHARING)


@pytest.mark.parametrize("name", sorted(SHARING))
def test_known_models_do_share_a_prediction(name: str) -> None:
    model, method = MODELS[name]
    batcher, gate = make(getattr(model, method), why=why_alone(model))
    batcher.predict(TABLE.head(2))

    answers_to(batcher, gate, [TABLE.head(1)] * 4)

    assert sorted(gate.counts) == [1, 3]


@pytest.mark.parametrize("name", sorted(set(MODELS) - SHARING))
def test_the_reason_for_not_sharing_predictions_is_reported(name: str) -> None:
    model, method = MODELS[name]
    batcher, _ = make(getattr(model, method), why=why_alone(model))
    batcher.predict(TABLE.head(2))

    said = str(batcher.batching)

    assert said == NOT_ROW_BY_ROW or "is not known to process each row independently" in said


def test_nothing_is_shared_before_the_first_prediction() -> None:
    batcher, gate = make(lambda table: table["a"].to_numpy())

    before = batcher.batching
    batcher.predict(TABLE.head(3))

    assert str(before) == "off: the first prediction will show whether requests can share predictions"
    assert str(batcher.batching) == "on: the model is known to process each row independently"
    assert gate.counts == [3, 4]


@pytest.mark.parametrize(
    "predict",
    [
        lambda table: [table["a"].to_numpy(), table["b"].to_numpy()],
        lambda table: table["a"].tolist(),
        scipy.sparse.csr_matrix,
        lambda table: pd.DataFrame({"p": table["a"]}, index=table.index + 1),
        lambda table: {"p": table["a"].to_numpy()},
        lambda table: table.to_numpy().T[:2],
        lambda table: (table["a"] ** 2 - (table["a"] ** 2).mean()).to_numpy(),
        lambda table: np.float64(1),
        lambda table: np.array("text"),
    ],
)
@pytest.mark.parametrize("rows", [2, 3])
def test_an_answer_without_one_item_per_row_turns_sharing_off(predict: Any, rows: int) -> None:
    batcher, _ = make(predict)

    batcher.predict(TABLE.head(rows))

    assert str(batcher.batching) == NOT_ROW_BY_ROW


def test_after_a_failed_first_prediction_the_decision_comes_later() -> None:
    failing = [True]

    def predict(table: pd.DataFrame) -> Any:
        if failing.pop() if failing else False:
            raise ValueError("not yet")
        return table["a"].to_numpy()

    batcher, _ = make(predict)
    with pytest.raises(ValueError, match="not yet"):
        batcher.predict(TABLE.head(1))
    batcher.predict(TABLE.head(1))

    assert batcher.batching.is_on


def test_the_batching_option_is_followed() -> None:
    on, gate = make(MODELS["a custom step"][0].predict, asked=True, why="a custom step")
    off, _ = make(MODELS["forest"][0].predict, asked=False)

    answers_to(on, gate, [TABLE.head(1)] * 4)

    assert sorted(gate.counts) == [1, 3]
    assert on.batching == Batching(True, "batching=true is set")
    assert off.batching == Batching(False, "batching=false is set")


def test_batching_true_does_not_split_answers_without_one_item_per_row() -> None:
    model = MODELS["forest of two outputs, probabilities"][0]
    batcher, gate = make(model.predict_proba, asked=True)
    tables = [TABLE.iloc[[row]].reset_index(drop=True) for row in range(3)]

    answers = answers_to(batcher, gate, tables)

    assert gate.counts == [1, 2, 1, 1]
    for table, answer in zip(tables, answers, strict=True):
        assert_same(answer, model.predict_proba(table))
    assert str(batcher.batching) == NOT_ROW_BY_ROW


def test_a_first_table_larger_than_a_batch_decides_nothing() -> None:
    batcher, gate = make(lambda table: table["a"].to_numpy())

    batcher.predict(pd.DataFrame({"a": np.zeros(MAX_BATCH_ROWS)}))

    assert gate.counts == [MAX_BATCH_ROWS]
    assert not batcher.batching.is_on


@pytest.mark.parametrize("make_answer", [np.array, pd.Series, lambda rows: pd.DataFrame({"p": rows})])
@given(tables=st.lists(st.lists(st.integers(-(2**31), 2**31), min_size=1, max_size=4), min_size=1, max_size=5))
def test_joined_tables_are_split_again(make_answer: Callable[[Any], Any], tables: list[list[int]]) -> None:
    frames = [pd.DataFrame({"x": rows}) for rows in tables]
    assert len({kind_of_table(frame) for frame in frames}) == 1

    predictions = make_answer(join_tables(frames)["x"].tolist())
    parts = split_predictions(predictions, [len(rows) for rows in tables])

    assert [pd.DataFrame(part).to_numpy().ravel().tolist() for part in parts] == tables


@pytest.mark.parametrize(
    "table",
    [
        [1, 2],
        pd.DataFrame({"a": [1]}, index=[7]),
        pd.DataFrame({"a": pd.Categorical(["x"])}),
        pd.DataFrame({"a": []}),
    ],
)
def test_a_table_that_joining_would_change_has_no_kind(table: Any) -> None:
    assert kind_of_table(table) is None


def test_tables_with_different_columns_or_types_have_different_kinds() -> None:
    tables: list[Any] = [{"a": [1]}, {"a": [1.0]}, {"b": [1]}, {1: [1]}, {"1": [1]}]

    assert len({kind_of_table(pd.DataFrame(columns)) for columns in tables}) == len(tables)
    assert kind_of_table(pd.DataFrame({"a": [1]}, index=[0])) == kind_of_table(pd.DataFrame({"a": [2]}))

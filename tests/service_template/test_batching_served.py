"""The running service with many concurrent callers: each gets the answer to its own rows, for every kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
import requests
from sklearn.datasets import make_multilabel_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from support.serving_process import Running, build, serve

pytestmark = pytest.mark.slow

ROWS, LABELS = make_multilabel_classification(n_samples=120, n_features=4, n_classes=2, random_state=0)
TABLE = pd.DataFrame(ROWS, columns=["a", "b", "c", "d"])
CALLERS, TIMES = 8, 12


def forest() -> Any:
    return RandomForestClassifier(n_estimators=30, random_state=0)


# A lambda, since the process that serves cannot import a function of this module.
MINUS_THE_MEAN = FunctionTransformer(lambda rows: rows - rows.mean(axis=0))


# A fitted model; whether it has an input example; the option `batching`; what the service reports after a prediction.
CASES: Mapping[str, tuple[Any, bool, bool | None, str]] = {
    "known": (
        make_pipeline(StandardScaler(), LogisticRegression()).fit(TABLE, LABELS[:, 0]),
        True,
        None,
        "on: the model is known to process each row independently",
    ),
    "known, without an example": (
        forest().fit(TABLE, LABELS[:, 0]),
        False,
        None,
        "on: the model is known to process each row independently",
    ),
    "several outputs": (
        forest().fit(TABLE, LABELS),
        False,
        None,
        "off: the model's answers are not arrays with one item per row",
    ),
    "several outputs, asked for": (
        forest().fit(TABLE, LABELS),
        True,
        True,
        "off: the model's answers are not arrays with one item per row",
    ),
    "a function": (
        make_pipeline(MINUS_THE_MEAN, LogisticRegression()).fit(TABLE, LABELS[:, 0]),
        True,
        None,
        "off: sklearn.preprocessing._function_transformer.FunctionTransformer "
        "is not known to process each row independently",
    ),
    "not wanted": (forest().fit(TABLE, LABELS[:, 0]), True, False, "off: batching=false is set"),
}


# Unit tests cover the other models; each server takes seconds to start.
QUICK = {"known, without an example", "several outputs", "a function"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.exhaustive) for name in CASES]
)
def test_each_caller_gets_the_answer_to_its_own_rows(name: str, tmp_path: Path) -> None:
    model, has_example, asked, said = CASES[name]
    mlflow.sklearn.save_model(
        model,
        tmp_path / "model",
        pyfunc_predict_fn="predict_proba",
        input_example=TABLE.head(2) if has_example else None,
        serialization_format="cloudpickle",
        pip_requirements=["scikit-learn"],
    )
    source = build(tmp_path / "model", tmp_path, options={} if asked is None else {"batching": asked})

    with serve(source, tmp_path / "model", tmp_path) as running, ThreadPoolExecutor(CALLERS) as threads:
        wrong = list(threads.map(lambda caller: wrong_answers(running, model, caller), range(CALLERS)))
        version = requests.get(f"{running.url}/version", timeout=10)

    assert wrong == [[]] * CALLERS
    assert version.headers["x-batching"] == said
    assert version.text == mlflow.__version__


def wrong_answers(running: Running, model: Any, caller: int) -> list[Any]:
    """Returns the answers to this caller's rows that differ from the model's answers to the same rows alone."""
    mine = TABLE.iloc[caller * 3 : caller * 3 + 1 + caller % 3].reset_index(drop=True)
    right = model.predict_proba(mine)
    wrong = []
    for _ in range(TIMES):
        body = {"dataframe_split": mine.to_dict(orient="split")}
        response = requests.post(f"{running.url}/invocations", json=body, timeout=60)
        got = response.json().get("predictions")
        if np.shape(got) != np.shape(right) or not np.allclose(got, right):
            wrong.append((response.status_code, got))
    return wrong

"""The running service with many concurrent callers: each gets the answer to its own rows, for every kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import mlflow.sklearn
import pandas as pd
import pytest
import requests
from sklearn.datasets import make_multilabel_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from support.concurrent_callers import CALLERS, ask_about_tables, make_tables, wrong_answers
from support.serving_process import build, serve

pytestmark = pytest.mark.slow

ROWS, LABELS = make_multilabel_classification(n_samples=120, n_features=4, n_classes=2, random_state=0)
TABLE = pd.DataFrame(ROWS, columns=["a", "b", "c", "d"])
REQUESTS = 20 * CALLERS
KNOWN = "on: the model is known to process each row independently"
NOT_ROW_BY_ROW = "off: the model's answers are not arrays with one item per row"
# Answers with the index that the rows have in some larger table.
NUMBERED_ELSEWHERE = """
import mlflow, pandas as pd

class Numbered(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return pd.DataFrame({"sum": model_input.sum(axis=1).to_numpy()}, index=range(7, 7 + len(model_input)))

mlflow.models.set_model(Numbered())
"""


@dataclass(frozen=True)
class Case:
    """A fitted model, or the code of one, and what the service reports after predictions."""

    model: Any
    reported: str
    method: str = "predict_proba"
    has_example: bool = True
    option: bool | None = None  # `batching`


def forest() -> Any:
    return RandomForestClassifier(n_estimators=30, random_state=0)


# A lambda, since the process that serves cannot import a function of this module.
MINUS_THE_MEAN = FunctionTransformer(lambda rows: rows - rows.mean(axis=0))

CASES: Mapping[str, Case] = {
    "known": Case(make_pipeline(StandardScaler(), LogisticRegression()).fit(TABLE, LABELS[:, 0]), KNOWN),
    "known, without an example": Case(forest().fit(TABLE, LABELS[:, 0]), KNOWN, has_example=False),
    "an array of several outputs": Case(forest().fit(TABLE, LABELS), KNOWN, method="predict"),
    "a list for several outputs": Case(forest().fit(TABLE, LABELS), NOT_ROW_BY_ROW, has_example=False),
    "a list for several outputs, asked for": Case(forest().fit(TABLE, LABELS), NOT_ROW_BY_ROW, option=True),
    "a table with another index, asked for": Case(NUMBERED_ELSEWHERE, NOT_ROW_BY_ROW, option=True),
    "a function": Case(
        make_pipeline(MINUS_THE_MEAN, LogisticRegression()).fit(TABLE, LABELS[:, 0]),
        "off: sklearn.preprocessing._function_transformer.FunctionTransformer "
        "is not known to process each row independently",
    ),
    "not wanted": Case(forest().fit(TABLE, LABELS[:, 0]), "off: batching=false is set", option=False),
}
# Unit tests cover the other models; each server takes seconds to start.
QUICK = {"known, without an example", "a list for several outputs", "a function"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.exhaustive) for name in CASES]
)
def test_each_caller_gets_the_answer_to_its_own_rows(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    save(case, tmp_path)
    source = build(tmp_path / "model", tmp_path, options={} if case.option is None else {"batching": case.option})
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    questions = ask_about_tables(model, make_tables(TABLE, REQUESTS, most_rows=5, seed=3))

    with serve(source, tmp_path / "model", tmp_path) as running:
        wrong = wrong_answers(running, questions)
        version = requests.get(f"{running.url}/version", timeout=10)

    assert wrong == []
    assert version.headers["x-batching"] == case.reported
    assert version.text == mlflow.__version__


def save(case: Case, folder: Path) -> None:
    example = TABLE.head(2) if case.has_example else None
    if isinstance(case.model, str):
        code = folder / "model.py"
        code.write_text(case.model)
        mlflow.pyfunc.save_model(
            folder / "model", python_model=str(code), input_example=example, pip_requirements=["mlflow"]
        )
        return
    mlflow.sklearn.save_model(
        case.model,
        folder / "model",
        pyfunc_predict_fn=case.method,
        input_example=example,
        serialization_format="cloudpickle",
        pip_requirements=["scikit-learn"],
    )

"""Batched models with many concurrent callers: their requests do share predictions, and no answer is another caller's.

Every kind of model that is listed as batched, in the running service; every scikit-learn estimator of the list, in this
process. The oracle is MLflow: the model's own answer to the rows of one request.
"""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest

from fargate_service import template_service
from fargate_service.batching import row_independence
from fargate_service.batching.row_independence import why_pyfunc_alone
from fargate_service.pyfunc.table_batching import TableBatcher
from support.batched_models import LABELS
from support.concurrent_callers import CALLERS, load_questions, make_tables, serve_counted, wrong_answers
from support.listed_estimators import PARTS, fit_to_serve
from support.serving_process import build

TESTS = Path(__file__).parents[1]
# Of the lists themselves, so that an addition is tested.
FLAVORS: dict[str, Sequence[str]] = {
    "sklearn": [
        "DummyRegressor",
        "LinearRegression",
        "Pipeline",
        "RandomForestClassifier",
        "HistGradientBoostingRegressor",
        "ColumnTransformer",
    ],
    **{name: sorted(kinds) for name, kinds in row_independence._KNOWN.items() if name != "sklearn"},
    "onnx": ["linear"],
    "keras": ["tensors", "files"],
}
LIBRARIES = {"sklearn": "sklearn", "keras": "tensorflow"}  # the others are called as the flavor
REQUESTS = 2000  # of each flavor
SINGLE = 15 * CALLERS
ROWS_PER_CALL = 4
# Their answer is a constant, ready before another thread gets its turn; the service is measured with one of them.
CONSTANT = {"DummyClassifier", "DummyRegressor"}
QUICK = ("sklearn", "Pipeline")
MODELS = [(flavor, name) for flavor, names in FLAVORS.items() for name in names]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("flavor", "name"), MODELS)
def test_a_batched_model_shares_predictions_and_answers_each_caller_alone(
    flavor: str, name: str, tmp_path: Path
) -> None:
    each = math.ceil(REQUESTS / len(FLAVORS[flavor]) / CALLERS) * CALLERS

    assert measure(flavor, name, tmp_path, requests=each, single=SINGLE) >= ROWS_PER_CALL


@pytest.mark.slow
def test_a_pipeline_shares_predictions_and_answers_each_caller_alone(tmp_path: Path) -> None:
    assert measure(*QUICK, tmp_path, requests=8 * CALLERS, single=8 * CALLERS) > 1.5


def measure(flavor: str, name: str, folder: Path, *, requests: int, single: int) -> float:
    """Returns the mean number of rows per prediction for requests with one row, after checking every answer."""
    if importlib.util.find_spec(LIBRARIES.get(flavor, flavor)) is None:
        pytest.skip(f"{flavor} is not installed: pip install -e '.[exhaustive]'")
    save(flavor, name, folder, requests, single)
    questions = load_questions(folder / "questions.json")
    labels, options = (LABELS, None) if flavor == "keras" else (None, {"runtime": "onnx"} if flavor == "onnx" else None)
    # Libraries compute in single precision, where the order of additions in a batch shows earlier.
    tolerance = 1e-9 if flavor == "sklearn" else 1e-5
    source = build(folder / "model", folder, labels, options)
    with serve_counted(source, folder / "model", folder) as counted:
        wrong = wrong_answers(counted.running, questions[:requests], tolerance=tolerance)
        means = []
        # Again if other programs keep the callers from sending at the same time.
        while len(means) < 3 and max(means, default=0) < ROWS_PER_CALL:
            before = len(counted.rows_per_call())
            wrong += wrong_answers(counted.running, questions[requests:], tolerance=tolerance)
            calls = counted.rows_per_call()[before:]
            assert sum(calls) == single  # so each request was predicted, and once
            means.append(single / len(calls))
        decision = counted.running.session.get(f"{counted.running.url}/version", timeout=10).headers["x-batching"]

    assert wrong == []
    assert decision == "on: the model is known to process each row independently"
    print(f"\n{flavor} {name}: {len(questions)} requests, 0 wrong, {max(means):.1f} rows per prediction")
    return max(means)


def save(flavor: str, name: str, folder: Path, requests: int, single: int) -> None:
    command = [sys.executable, "-m", "support.batched_models", flavor, name, str(folder), str(requests), str(single)]
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def threads_take_turns_as_in_the_service() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(template_service._SWITCH_SECONDS)
    yield
    sys.setswitchinterval(before)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("threads_take_turns_as_in_the_service")
@pytest.mark.filterwarnings("ignore")  # scikit-learn's warnings about so little data
@pytest.mark.parametrize("name", sorted(row_independence._KNOWN["sklearn"] - PARTS))
def test_a_listed_estimator_shares_predictions_and_answers_each_caller_alone(name: str, tmp_path: Path) -> None:
    model, table = fit_to_serve(name)
    method = "predict" if name == "MultiOutputClassifier" or not hasattr(model, "predict_proba") else "predict_proba"
    mlflow.sklearn.save_model(
        model,
        tmp_path / "model",
        pyfunc_predict_fn=method,
        serialization_format="cloudpickle",
        pip_requirements=["scikit-learn"],
    )
    served = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    calls: list[int] = []
    batcher = TableBatcher(counted(served.predict, calls), asked=None, why_alone=why_pyfunc_alone(served))
    batcher.predict(table.head(1))
    tables = make_tables(table, 20 * CALLERS, most_rows=5, seed=1)
    single = make_tables(table, 15 * CALLERS, most_rows=1, seed=2)

    assert wrong_shares(batcher, served, tables) == []
    # Again if other programs keep the threads from being there at the same time.
    for _ in range(3):
        calls.clear()
        assert wrong_shares(batcher, served, single) == []
        assert sum(calls) == len(single)
        if len(single) / len(calls) >= ROWS_PER_CALL:
            break
    print(
        f"\nsklearn {name}: {len(tables) + len(single)} tables, 0 wrong, {len(single) / len(calls):.1f} rows per call"
    )
    assert name in CONSTANT or len(single) / len(calls) >= ROWS_PER_CALL


def counted(predict: Callable[[Any], Any], calls: list[int]) -> Callable[[Any], Any]:
    def predict_and_count(table: pd.DataFrame) -> Any:
        calls.append(len(table))
        return predict(table)

    return predict_and_count


def wrong_shares(batcher: TableBatcher, model: Any, tables: Sequence[pd.DataFrame]) -> list[Any]:
    """Returns the answers that differ from `model`'s when `CALLERS` callers predict `tables` at the same time."""
    right = [model.predict(table) for table in tables]
    start = threading.Barrier(CALLERS)

    def call(caller: int) -> list[Any]:
        start.wait(60)
        return [batcher.predict(one) for one in tables[caller::CALLERS]]

    with ThreadPoolExecutor(CALLERS) as threads:
        shares = threads.map(call, range(CALLERS))
        answers = {caller + n * CALLERS: one for caller, given in enumerate(shares) for n, one in enumerate(given)}
    return [(answers[number], one) for number, one in enumerate(right) if not is_same(answers[number], one)]


def is_same(one: Any, other: Any) -> bool:
    a, b = np.asarray(one), np.asarray(other)
    if a.shape != b.shape or type(one) is not type(other):
        return False
    return bool(np.allclose(a, b, rtol=1e-7, atol=1e-9) if b.dtype.kind == "f" else np.array_equal(a, b))

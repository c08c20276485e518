"""The service answers generated bodies as MLflow's scoring server does, valid and invalid ones, for many models.

The exceptions are those of docs/design/service.md: no number where MLflow writes NaN, and 500 where the model fails.
The exhaustive test compares 10,000 bodies for each model, or as many as the variable GENERATED_BODIES says.
"""

from __future__ import annotations

import json
import logging
import os
import random
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc import scoring_server
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
from sklearn.base import BaseEstimator
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from fargate_service.errors import RequestError
from fargate_service.memory.budget import MemoryBudget
from fargate_service.memory.reservation import Reservation
from fargate_service.pyfunc.pyfunc_loading import load_pyfunc
from fargate_service.pyfunc.pyfunc_model import PyfuncModel
from support.generated_bodies import Body, draw_body

SHORT, LONG = 60, int(os.environ.get("GENERATED_BODIES", "10000"))
TOGETHER = 7
MIXED = {"a": "double", "b": "long", "c": "boolean", "d": "string", "e": "float", "f": "integer"}
GENERATOR = np.random.default_rng(1)


class Echo(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Answers with what it was given: each row's values and types, in a text."""

    def predict(self, data: Any) -> np.ndarray:
        kinds = [str(kind) for kind in getattr(data, "dtypes", [getattr(data, "dtype", type(data))])]
        names = list(getattr(data, "columns", []))
        rows = data.itertuples(index=False) if isinstance(data, pd.DataFrame) else data
        return np.array([f"{names} {kinds} {list(map(_exact, row))}" for row in rows] or [kinds], dtype=object)


class Layout(BaseEstimator):  # type: ignore[misc]
    """Answers with what the memory of its input looks like."""

    def predict(self, data: Any) -> list[str]:
        array = np.asarray(data)
        labels = list(getattr(data, "index", []))
        return [f"{array.shape} {array.flags.c_contiguous} {array.flags.f_contiguous} {type(data).__name__} {labels}"]


class Scaled(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A user's code with params, which fails for numbers below 0."""

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        table = pd.DataFrame(model_input)
        if (table.iloc[:, 0] < 0).any():
            raise RuntimeError("confidential")
        return (table.select_dtypes("number") * (params or {}).get("factor", 1.0)).sum(axis=1)


def _exact(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"


def _columns(kinds: dict[str, str], *, required: bool = True) -> ModelSignature:
    return ModelSignature(Schema([ColSpec(kind, name, required=required) for name, kind in kinds.items()]))


def _tensor(dtype: str, *shape: int) -> ModelSignature:
    return ModelSignature(Schema([TensorSpec(np.dtype(dtype), shape)]))


DOUBLES = dict.fromkeys("abcde", "double")
# Name → signature, columns and types of the bodies, the model (its class if it is not fitted to numbers).
MODELS: dict[str, tuple[ModelSignature | None, list[str], list[str], Any]] = {
    "doubles": (_columns(DOUBLES), [*DOUBLES], ["double"] * 5, make_pipeline(StandardScaler(), LogisticRegression())),
    "floats": (_columns(dict.fromkeys("ab", "float")), ["a", "b"], ["float"] * 2, LinearRegression()),
    "whole numbers": (_columns(dict.fromkeys("ab", "long")), ["a", "b"], ["integer"] * 2, LinearRegression()),
    "forest": (_columns(DOUBLES), [*DOUBLES], ["double"] * 5, RandomForestClassifier(5)),
    "pipeline's scores": (_columns(DOUBLES), [*DOUBLES], ["double"] * 5, make_pipeline(LogisticRegression())),
    "forest's scores": (_columns(DOUBLES), [*DOUBLES], ["double"] * 5, RandomForestClassifier(5)),
    "gaps": (_columns(DOUBLES, required=False), [*DOUBLES], ["double"] * 5, HistGradientBoostingClassifier(max_iter=3)),
    "mixed": (_columns(MIXED), [*MIXED], [*MIXED.values()], None),
    "array": (_tensor("float64", -1, 5), [], ["double"] * 5, make_pipeline(StandardScaler(), LinearRegression())),
    "small array": (_tensor("float32", -1, 5), [], ["float"] * 5, Echo()),
    "whole array": (_tensor("int64", -1, 5), [], ["long"] * 5, Echo()),
    "echo of mixed columns": (_columns(MIXED), [*MIXED], [*MIXED.values()], Echo()),
    "echo of doubles": (_columns(DOUBLES), [*DOUBLES], ["double"] * 5, Echo()),
    "echo of floats": (_columns(dict.fromkeys("ab", "float")), ["a", "b"], ["float"] * 2, Echo()),
    "echo of long": (_columns(dict.fromkeys("ab", "long")), ["a", "b"], ["long"] * 2, Echo()),
    "echo of integer": (_columns(dict.fromkeys("ab", "integer")), ["a", "b"], ["integer"] * 2, Echo()),
    "layout": (_columns(DOUBLES), [*DOUBLES], ["double"] * 5, Layout()),
    "one column": (_columns({"a": "double"}), ["a"], ["double"], Echo()),
    "no signature": (None, [*DOUBLES], ["double"] * 5, LinearRegression()),
    "user's code": (_columns(DOUBLES), [*DOUBLES], ["double"] * 5, Scaled()),
    "user's code with params": (
        ModelSignature(_columns(DOUBLES).inputs, params=ParamSchema([ParamSpec("factor", "double", 1.0)])),
        [*DOUBLES],
        ["double"] * 5,
        Scaled(),
    ),
}
FURTHER = ("xgboost", "lightgbm")


def save(name: str, path: Path) -> tuple[list[str], list[str]]:
    """Saves a model and returns the columns and types of its bodies."""
    if name in FURTHER:
        return _save_boosted(name, path)
    signature, columns, kinds, model = MODELS[name]
    if isinstance(model, Scaled):
        mlflow.pyfunc.save_model(path, python_model=model, signature=signature, pip_requirements=["mlflow"])
        return columns, kinds
    table = pd.DataFrame(GENERATOR.normal(size=(60, len(kinds))), columns=columns or range(len(kinds)))
    if model is None:
        table = table.assign(b=1, c=True, d=["red", "green", ""] * 20, f=2)
        encoded = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["d"]), remainder="passthrough")
        model = make_pipeline(encoded, LogisticRegression())
    if not isinstance(model, Echo | Layout):
        model.fit(table if columns else table.to_numpy(), np.arange(60) % 3)
    mlflow.sklearn.save_model(
        model,
        path,
        signature=signature,
        pyfunc_predict_fn="predict_proba" if name.endswith("scores") else "predict",
        serialization_format="cloudpickle",
        pip_requirements=["mlflow"],
    )
    return columns, kinds


def _save_boosted(name: str, path: Path) -> tuple[list[str], list[str]]:
    table = pd.DataFrame(GENERATOR.normal(size=(60, 5)), columns=[*DOUBLES])
    if name == "xgboost":
        import mlflow.xgboost
        from xgboost import XGBClassifier

        model = XGBClassifier(n_estimators=5).fit(table, np.arange(60) % 3)
        mlflow.xgboost.save_model(model, path, signature=_columns(DOUBLES), pip_requirements=["mlflow"])
    else:
        import mlflow.lightgbm
        from lightgbm import LGBMRegressor

        model = LGBMRegressor(n_estimators=5, verbose=-1).fit(table, np.arange(60) % 3)
        mlflow.lightgbm.save_model(model, path, signature=_columns(DOUBLES), pip_requirements=["mlflow"])
    return [*DOUBLES], ["double"] * 5


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def theirs(model: Any, body: Body) -> tuple[int, str]:
    """Returns the status and body of MLflow's server; of an error, whether the model failed."""
    try:
        answer = scoring_server.invocations(*body, model, model.metadata.get_input_schema())
    except MlflowException as error:
        failed = "unexpected error while evaluating the model" in error.message
        return error.get_http_status_code(), "failed" if failed else error.error_code
    except Exception:
        return 500, "crashed"
    return answer.status, answer.response


def ours(model: PyfuncModel, body: Body) -> tuple[int, str]:
    try:
        answer = model.invoke(*body)
    except RequestError as error:
        return error.status, error.code or ""
    except Exception:
        return 500, ""
    return answer.status, answer.body


def is_same(expected: tuple[int, str], got: tuple[int, str]) -> bool:
    (status, text), (our_status, our_text) = expected, got
    if status == 200:
        return got == (200, _with_null(text))
    if text in ("failed", "crashed"):
        return our_status in (400, 500)
    return status == our_status and our_text in (text, "")


def _with_null(text: str) -> str:
    if "NaN" not in text and "Infinity" not in text:
        return text
    return json.dumps(json.loads(text, parse_constant=lambda _: None))


def compare(name: str, folder: Path, count: int) -> Counter[str]:
    """Asserts that `count` bodies get the same answers, and returns how many were read without MLflow's code."""
    names, kinds = save(name, folder / "model")
    model = mlflow.pyfunc.load_model(str(folder / "model"))
    service = load_pyfunc(folder / "model", batching=True)
    rng = random.Random(name)
    budget, seen = MemoryBudget(), Counter[str]()
    for _ in range(-(-count // TOGETHER)):
        bodies = [draw_body(rng, names, kinds) for _ in range(TOGETHER)]
        with ExitStack() as requests:
            waiting = [(body, requests.enter_context(Reservation(budget).held())) for body, _ in bodies]
            together = service.invoke_together(waiting)
        for body, shared in zip(bodies, together, strict=True):
            expected = theirs(model, body)
            got = ours(service, body)
            assert is_same(expected, got), f"{body}: {expected} != {got}"
            seen["bodies"] += 1
            seen[f"status {got[0]}"] += 1
            if shared and service.gathers(body[1]):
                assert _is_close(shared.body, got[1]), f"{body}: {got} != {shared}"
                seen["read exactly"] += 1
    assert budget.used == 0
    return seen


def _is_close(one: str, other: str) -> bool:
    """Equal, or numbers that differ in the last digits, which depend on the number of rows."""
    if one == other:
        return True
    numbers, others = json.loads(one)["predictions"], json.loads(other)["predictions"]
    return bool(np.allclose(np.array(numbers, float), np.array(others, float), rtol=1e-9, atol=1e-12, equal_nan=True))


@pytest.mark.parametrize("name", MODELS)
def test_generated_bodies_get_the_answers_of_mlflows_server(name: str, tmp_path: Path) -> None:
    seen = compare(name, tmp_path, SHORT)

    is_exact = name not in ("no signature", "user's code with params", "layout")
    assert (seen["read exactly"] > SHORT / 10) == is_exact, seen


@pytest.mark.exhaustive
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", [*MODELS, *FURTHER])
def test_thousands_of_generated_bodies_get_the_answers_of_mlflows_server(name: str, tmp_path: Path) -> None:
    print(name, dict(compare(name, tmp_path, LONG)))

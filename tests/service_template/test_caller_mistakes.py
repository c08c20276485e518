"""A model without a signature: the caller's mistakes are distinguished from its own failures."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow.pyfunc
import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from fargate_service.errors import RequestError
from fargate_service.pyfunc.caller_mistakes import validation_reason, wrong_columns
from fargate_service.pyfunc.guarded_model import ModelFailed
from fargate_service.pyfunc.pyfunc_loading import load_pyfunc
from fargate_service.pyfunc.pyfunc_model import PyfuncModel

TABLE = pd.DataFrame({"a": [1.0, 2.0], "b": [2.0, 1.0], "color": ["red", "blue"]})
SECRET = "DE00 0000 0000"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> PyfuncModel:
    path = tmp_path_factory.mktemp("model") / "fitted"
    encoded = make_column_transformer((OneHotEncoder(), ["color"]), remainder="passthrough")
    model = make_pipeline(encoded, LinearRegression()).fit(TABLE, [1.0, 2.0])
    mlflow.sklearn.save_model(
        model, path, input_example=TABLE, pip_requirements=["scikit-learn"], serialization_format="cloudpickle"
    )
    description = (path / "MLmodel").read_text().partition("\nsignature:")
    (path / "MLmodel").write_text(description[0] + "\n")  # as models logged without one
    loaded = load_pyfunc(path)
    assert loaded.warm_up()
    return loaded


def refusal(model: PyfuncModel, document: Any) -> RequestError:
    with pytest.raises(RequestError) as refused:
        model.invoke(json.dumps(document).encode(), "application/json")
    assert SECRET not in refused.value.message
    return refused.value


def test_a_renamed_column_is_named(fitted: PyfuncModel) -> None:
    error = refusal(fitted, {"dataframe_records": [{"a": 1, "B": SECRET, "color": "red"}]})

    assert (error.status, error.message) == (400, "The input lacks columns that the model was fitted with: b.")


def test_the_reason_of_a_library_is_given_without_the_value(fitted: PyfuncModel) -> None:
    error = refusal(fitted, {"dataframe_records": [{"a": 1, "b": 2, "color": SECRET}]})

    assert (error.status, error.message) == (400, "The model rejected this input: Found unknown categories")


@pytest.mark.parametrize("value", [SECRET, None, [1, 2], {"x": SECRET}, 10**400])
def test_a_value_that_is_not_a_number_is_a_bad_request(fitted: PyfuncModel, value: Any) -> None:
    assert refusal(fitted, {"dataframe_records": [{"a": value, "b": 2, "color": "red"}]}).status == 400


@pytest.mark.parametrize("instances", [[1.0, 2.0, 3.0], [[1.0, 2.0]], [[[1.0]]], SECRET])
def test_an_array_of_the_wrong_shape_is_a_bad_request(fitted: PyfuncModel, instances: Any) -> None:
    assert refusal(fitted, {"instances": instances}).status == 400


class Picky(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow ships no types
    """Its own code raises, or MLflow's refusal of a caller's mistake."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        if (model_input["a"] < 0).any():
            raise MlflowException.invalid_parameter_value("a must not be negative")
        if (model_input["a"] == 0).any():
            raise ValueError("the database is gone")
        return model_input["b"]


def test_an_exception_of_the_models_own_code_is_a_failure_unless_it_is_mlflows_refusal(tmp_path: Path) -> None:
    mlflow.pyfunc.save_model(tmp_path / "model", python_model=Picky(), pip_requirements=["mlflow"])
    model = load_pyfunc(tmp_path / "model")

    for record in ({"a": 0}, {"a": 1}):  # a ValueError, and a KeyError that pandas raises
        with pytest.raises(ModelFailed):
            model.invoke(json.dumps({"dataframe_records": [record]}).encode(), "application/json")
    assert refusal(model, {"dataframe_records": [{"a": -1}]}).message == "a must not be negative"


def raised(function: Callable[[], Any]) -> Exception:
    """Returns what `function` raises, without the frame of this module."""
    with pytest.raises(Exception) as caught:
        function()
    error = caught.value
    assert error.__traceback__
    return error.with_traceback(error.__traceback__.tb_next)


def test_only_what_a_library_raises_while_it_validates_is_the_callers() -> None:
    model = LinearRegression().fit(TABLE[["a", "b"]].to_numpy(), [1.0, 2.0])

    def own_code() -> None:
        raise ValueError(f"no account {SECRET}")

    assert validation_reason(raised(lambda: model.predict([["x", 1]]))) is None  # the lambda is the model's own code
    assert validation_reason(raised(partial(model.predict, np.array([[SECRET, 1]], dtype=object)))) == (
        "The model rejected this input: could not convert string to float"
    )
    assert validation_reason(raised(own_code)) is None


def test_a_table_of_the_wrong_width_is_recognized_without_names() -> None:
    model = LinearRegression().fit(TABLE[["a", "b"]].to_numpy(), [1.0, 2.0])

    assert wrong_columns(model, TABLE) == "The model was fitted with 2 columns, and the input has 3."
    assert wrong_columns(model, TABLE[["a", "b"]]) is None
    assert wrong_columns(model, [[1]]) is None
    assert wrong_columns(None, TABLE) is None


@pytest.mark.parametrize(
    "booster",
    [SimpleNamespace(feature_names=["a", "size"]), SimpleNamespace(feature_name=lambda: ["a", "size"])],
)
def test_the_columns_of_a_booster_are_known(booster: Any) -> None:
    """XGBoost's and LightGBM's."""
    assert wrong_columns(booster, TABLE) == "The input lacks columns that the model was fitted with: size."


class Upper(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow ships no types
    """A model with type hints, which MLflow checks."""

    def predict(self, model_input: list[dict[str, str]], params: Any = None) -> Any:
        return [one["text"].upper() for one in model_input]


@pytest.mark.parametrize(
    "inputs",
    [[{"text": {"iban": SECRET}}], [SECRET], {"text": SECRET}, SECRET, [[SECRET]], [{SECRET: 1}]],
)
def test_errors_of_type_hints_do_not_repeat_the_data(tmp_path: Path, inputs: Any) -> None:
    mlflow.pyfunc.save_model(
        tmp_path / "model", python_model=Upper(), input_example=[{"text": "a"}], pip_requirements=["mlflow"]
    )
    model = load_pyfunc(tmp_path / "model")
    model.warm_up()

    assert refusal(model, {"inputs": inputs}).status == 400

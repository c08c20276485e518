"""MLflow's protocol around a model, and where the service differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pytest
from mlflow.models import infer_signature

from fargate_service.errors import RequestError
from fargate_service.memory.budget import MemoryBudget
from fargate_service.memory.costs import json_cost, table_cost
from fargate_service.memory.reservation import Reservation
from fargate_service.models.loaded_model import Batching
from fargate_service.pyfunc.guarded_model import ModelFailed
from fargate_service.pyfunc.pyfunc_loading import load_pyfunc
from fargate_service.pyfunc.pyfunc_model import PyfuncModel
from fargate_service.settings import DocumentLimits


class Halves(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow ships no types
    """Half of column a; it fails for negative numbers, and 0 becomes NaN."""

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        if (model_input["a"] < 0).any():
            raise ValueError("confidential: negative")
        return (model_input["a"] / 2).where(model_input["a"] != 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PyfuncModel:
    path = tmp_path_factory.mktemp("model") / "halves"
    table = pd.DataFrame({"a": [1.0, 3.0]})
    signature = infer_signature(table, pd.Series([0.5, 1.5]))
    mlflow.pyfunc.save_model(
        path, python_model=Halves(), signature=signature, input_example=table, pip_requirements=["mlflow", "pandas"]
    )
    return load_pyfunc(path)


def invoke(model: PyfuncModel, document: object, content_type: str = "application/json") -> Any:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return json.loads(model.invoke(body, content_type).body)


@pytest.mark.parametrize(
    ("document", "content_type"),
    [
        ({"dataframe_split": {"columns": ["a"], "data": [[2.0]]}}, "application/json"),
        ({"dataframe_records": [{"a": 2.0}]}, "Application/JSON; charset=UTF-8"),
        ({"inputs": {"a": [2.0]}}, "application/json"),
        (b"a\n2.0\n", "text/csv"),
    ],
)
def test_mlflows_input_formats_are_answered(model: PyfuncModel, document: object, content_type: str) -> None:
    assert invoke(model, document, content_type) == {"predictions": [{"a": 1.0}]}


def test_nan_is_null(model: PyfuncModel) -> None:
    answer = model.invoke(b'{"dataframe_records": [{"a": 0}]}', "application/json")

    assert json.loads(answer.body, parse_constant=pytest.fail) == {"predictions": [{"a": None}]}


def test_a_failure_of_the_model_is_not_a_bad_request(model: PyfuncModel) -> None:
    with pytest.raises(ModelFailed, match="ValueError"):
        invoke(model, {"dataframe_records": [{"a": -1.0}]})


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"dataframe_records": [{"b": "0815"}]}, "missing inputs"),
        ({"dataframe_records": [{"a": "0815x"}]}, "Failed to convert column"),
        (b'{"a": 0815', "valid JSON"),
        ({"a": "0815"}, "exactly one of the input fields"),
        (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"inputs": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", "nested too deeply"),
        (b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}", ""),
        (
            b'{"dataframe_records": [{"a": ' + b"9" * 5000 + b"}]}",
            "4,300 digits (environment.PYTHONINTMAXSTRDIGITS)",
        ),
        (b'{"dataframe_records": [{"a": ' + b"9" * 400 + b"}]}", ""),
        (b'{"dataframe_records": [{"a": 1e99999, "0815": []}]', "valid JSON"),
    ],
)
def test_a_bad_request_is_explained_without_a_stack_trace(model: PyfuncModel, document: object, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        invoke(model, document)

    assert refused.value.status == 400
    assert said in refused.value.message
    assert "Traceback" not in refused.value.message


def test_empty_input_that_the_model_cannot_predict_is_a_bad_request(model: PyfuncModel, monkeypatch: Any) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError("at least one row is needed")

    monkeypatch.setattr(model._tables, "_predict", refuse)

    with pytest.raises(RequestError, match="no rows") as refused:
        invoke(model, {"dataframe_split": {"columns": ["a"], "data": []}})

    assert refused.value.status == 400


@pytest.mark.parametrize("document", [{"dataframe_records": [{"b": "0815"}]}, b'{"a": 0815'])
def test_the_data_sent_is_not_repeated(model: PyfuncModel, document: object) -> None:
    with pytest.raises(RequestError) as refused:
        invoke(model, document)

    assert "0815" not in refused.value.message


@pytest.mark.parametrize(
    ("content_type", "said"),
    [
        ("text/xml", "This Content-Type is not supported; send one of application/json, text/csv."),
        ("application/vnd.apache.parquet", r"ACCEPT_PARQUET\); send one of application/json, text/csv\."),
    ],
)
def test_other_content_types_are_415_and_the_accepted_ones_are_named(
    model: PyfuncModel, content_type: str, said: str
) -> None:
    with pytest.raises(RequestError, match=said) as refused:
        model.invoke(b"<a/>", content_type)

    assert refused.value.status == 415


def test_as_many_levels_as_can_be_permitted_are_processed(model: PyfuncModel) -> None:
    deepest = PyfuncModel(model._model._model, Path(), model._tables, limits=DocumentLimits(max_levels=200))

    for value in ("[" * 197 + "]" * 197, '{"a": ' * 197 + "1" + "}" * 197):
        with pytest.raises(RequestError) as refused:
            invoke(deepest, f'{{"dataframe_records": [{{"a": {value}}}]}}'.encode())
        assert refused.value.status == 400
        assert "levels" not in refused.value.message


def test_the_warm_up_predicts_the_input_example(model: PyfuncModel) -> None:
    assert model.warm_up()


def test_without_an_example_there_is_no_warm_up(model: PyfuncModel, tmp_path: Path) -> None:
    assert not PyfuncModel(model._model._model, tmp_path, model._tables).warm_up()


def test_requests_to_a_custom_python_model_do_not_share_predictions(model: PyfuncModel) -> None:
    assert model.batching == Batching(False, "it is not a scikit-learn, XGBoost, LightGBM or CatBoost model")


def test_bodies_are_answered_together_only_while_there_is_memory_for_each(model: PyfuncModel) -> None:
    body = b'{"dataframe_split": {"columns": ["a"], "data": [[2.0]]}}'
    budget = MemoryBudget()
    budget.open(json_cost(body) + table_cost(1, 0) + table_cost(0, 1) + 1000)
    first, second, other = Reservation(budget), Reservation(budget), Reservation(budget)

    with first.held(), second.held():
        answers = model.invoke_together([(body, first), (body, second)])
    with other.working(int(budget.total)):
        refused = model.invoke_together([(body, Reservation(budget))])

    assert [one is None for one in answers] == [False, True]
    assert refused == [None]
    assert budget.used == 0


def test_bodies_that_do_not_fit_together_are_answered_one_by_one_or_left_to_mlflow(model: PyfuncModel) -> None:
    def row(value: object) -> tuple[bytes, Reservation]:
        document = {"dataframe_records": [{"a": value}]}
        return json.dumps(document).encode(), Reservation(MemoryBudget())

    answers = model.invoke_together([row(2.0), row("no number"), row(4)])

    # This model answers with a table, which has one row for each.
    assert [one and json.loads(one.body) for one in answers] == [
        {"predictions": [{"a": 1.0}]},
        None,
        {"predictions": [{"a": 2.0}]},
    ]


def test_a_limit_of_levels_below_those_of_a_table_holds_for_every_body(model: PyfuncModel) -> None:
    assert model.gathers("application/json")
    limited = load_pyfunc(model._example.parent, limits=DocumentLimits(max_levels=3))

    assert not limited.gathers("application/json")
    with pytest.raises(RequestError, match="nested too deeply"):
        invoke(limited, {"dataframe_split": {"columns": ["a"], "data": [[2.0]]}})


@pytest.mark.parametrize("parameter", ["charset=latin-1", "version=1"])
def test_a_type_that_mlflow_refuses_is_refused_before_the_body_is_parsed(model: PyfuncModel, parameter: str) -> None:
    with pytest.raises(RequestError) as refused:
        model.invoke(b"[" + b"1" * 5000 + b"]", f"application/json; {parameter}")

    assert refused.value.status == 415

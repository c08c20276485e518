"""A SHAP explainer as MLflow logs it, served as in the image and called as `explain()` calls it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import shap
from sklearn.linear_model import LogisticRegression

from mlflow_fargate.resolved_model import EXPLAINER_FLAVOR
from mlflow_fargate.scoring import score
from support.serving_process import KEY, Running, build, serve

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

CUSTOMERS = pd.DataFrame({"age": [23.0, 31.0, 45.0, 62.0], "calls": [9.0, 7.0, 1.0, 0.0]})


@pytest.fixture(scope="module")
def explainer() -> shap.Explainer:
    return shap.Explainer(LogisticRegression().fit(CUSTOMERS.to_numpy(), [1, 1, 0, 0]), CUSTOMERS.to_numpy())


@pytest.fixture(scope="module")
def explaining(explainer: shap.Explainer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("explainer")
    mlflow.shap.save_explainer(explainer, str(folder / "model"), serialize_model_using_mlflow=False)
    with serve(build(folder / "model", folder), folder / "model", folder, API_KEY=KEY) as running:
        yield running


def test_a_served_explainer_returns_the_values_of_shap(explaining: Running, explainer: shap.Explainer) -> None:
    answer = score(explaining.url, CUSTOMERS, api_key=KEY)

    assert np.allclose(answer["predictions"], explainer(CUSTOMERS.to_numpy()).values)


def test_mlflow_logs_the_flavor_that_explain_expects(explaining: Running) -> None:
    metadata = mlflow.models.Model.load(str(Path(explaining.log).with_name("model")))

    assert {EXPLAINER_FLAVOR, "python_function"} <= set(metadata.flavors)

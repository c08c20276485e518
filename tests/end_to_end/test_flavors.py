"""Models of the supported flavors, deployed to the local stack: predictions are the same as in the process."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.deployments import get_deploy_client

from support.deployed_services import deployed, log_model, post
from support.flavor_models import LIBRARIES, OPTIONS, WHY_NOT

pytestmark = [pytest.mark.end_to_end, pytest.mark.exhaustive, pytest.mark.timeout(900)]


@pytest.mark.parametrize("flavor", LIBRARIES)
def test_a_deployed_model_predicts_the_same_as_in_the_process(local_stack: dict[str, str], flavor: str) -> None:
    library = LIBRARIES[flavor]
    if library and not importlib.util.find_spec(library):
        pytest.skip(WHY_NOT.get(library, f"{library} is not installed; make test-all installs it"))
    logged = log_model(flavor)

    with deployed(flavor, logged["uri"], OPTIONS.get(flavor, {})) as url:
        answer = post(f"{url}/invocations", logged["request"])

    assert answer.status_code == 200, answer.text
    predictions = answer.json()["predictions"]
    assert type(predictions) is type(logged["expected"])
    assert flat(predictions) == flat(logged["expected"])


def test_an_explainer_answers_with_default_options(local_stack: dict[str, str]) -> None:
    logged, client = log_model("shap"), get_deploy_client("fargate:/local")
    try:
        client.create_deployment("explained", logged["uri"], flavor="shap")

        explained = client.explain("explained", pd.DataFrame(**logged["request"]["dataframe_split"]))
    finally:
        client.delete_deployment("explained")

    assert flat(explained) == flat(logged["expected"])


def flat(predictions: Any) -> list[Any]:
    """Returns every value, numbers rounded to six digits."""
    if isinstance(predictions, dict):
        return [(key, flat(value)) for key, value in sorted(predictions.items())]
    if isinstance(predictions, list):
        return [flat(one) for one in predictions]
    return [float(np.format_float_scientific(predictions, 5))] if isinstance(predictions, float) else [predictions]

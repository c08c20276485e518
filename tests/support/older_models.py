"""Saves models with the MLflow that runs this, and prints how its own scoring server answers.

    python older_models.py FOLDER

Runs in an environment of an older MLflow, so it imports nothing else of the tests, and works with MLflow 1.30 as well
as with 2.22. Writes FOLDER/NAME for each model, and prints as JSON {NAME: [[request, status, answer], …]}.
"""

import json
import sys
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc.scoring_server
import mlflow.sklearn
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

CHANCE = np.random.RandomState(2026)
TABLE = pd.DataFrame(
    {
        "age": CHANCE.randint(18, 90, 200).astype("float64"),
        "plan": CHANCE.choice(["basic", "pro", "team"], 200),
        "visits": CHANCE.randint(0, 50, 200),
    }
)
TARGET = TABLE["visits"] * (TABLE["plan"] == "pro") + TABLE["age"] / 10
ROWS: list[list[list[Any]]] = [
    [[41.0, "basic", 3]],
    [[20.5, "pro", 49], [89.0, "team", 0], [18.0, "pro", 1]],
    [[None, "basic", 7], [33.0, "unseen", 12]],
]
# Requests that the signature or the model refuses, which must stay refused.
WRONG: list[list[list[Any]]] = [[["old", "basic", 3]], [[41.0, "basic", 3.5]]]


class TextColumns(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow ships no types
    """Depends on what pandas makes of texts, on a file, and on being pickled with the code that defines it."""

    def load_context(self, context: Any) -> None:
        self.weights = json.loads(Path(context.artifacts["weights"]).read_text())

    def predict(self, context: Any, model_input: pd.DataFrame) -> pd.DataFrame:
        texts = [name for name in model_input if model_input[name].dtype == object]
        scores = [self.weights.get(plan, -1) for plan in model_input["plan"]]
        return pd.DataFrame({"texts": [",".join(texts)] * len(model_input), "score": scores})


def make_columns() -> Any:
    one_hot = OneHotEncoder(handle_unknown="ignore")
    return make_column_transformer((one_hot, ["plan"]), (SimpleImputer(), ["age"]), remainder="passthrough")


def save_models(folder: Path) -> None:
    signature = infer_signature(TABLE, TARGET)
    regressor = make_pipeline(make_columns(), GradientBoostingRegressor(random_state=1)).fit(TABLE, TARGET)
    mlflow.sklearn.save_model(regressor, str(folder / "regressor"), signature=signature)
    forest = make_pipeline(make_columns(), RandomForestClassifier(20, random_state=1))
    classifier = forest.fit(TABLE, np.where(TARGET > 10, "high", "low"))
    example = TABLE.head(2)
    mlflow.sklearn.save_model(classifier, str(folder / "classifier"), signature=signature, input_example=example)
    weights = folder / "weights.json"
    weights.write_text(json.dumps({"basic": 1, "pro": 2.5}))
    mlflow.pyfunc.save_model(
        str(folder / "pyfunc"), python_model=TextColumns(), artifacts={"weights": str(weights)}, signature=signature
    )


def answers_of(model: Path) -> list[list[Any]]:
    app = mlflow.pyfunc.scoring_server.init(mlflow.pyfunc.load_model(str(model)))
    if hasattr(app, "test_client"):  # Flask, before MLflow 2.22
        client = app.test_client()
    else:
        from starlette.testclient import TestClient

        client = TestClient(app)
    answers = []
    for rows in [*ROWS, *WRONG]:
        request = {"dataframe_split": {"columns": list(TABLE.columns), "data": rows}}
        sent = request["dataframe_split"] if mlflow.__version__.startswith("1.") else request
        answer = client.post("/invocations", data=json.dumps(sent), headers={"Content-Type": "application/json"})
        content = answer.content if hasattr(answer, "content") else answer.get_data()
        answers.append([request, answer.status_code, json.loads(content)])
    return answers


if __name__ == "__main__":
    into = Path(sys.argv[1])
    into.mkdir()
    save_models(into)
    names = ["regressor", "classifier", "pyfunc"]
    print(json.dumps({name: answers_of(into / name) for name in names}))

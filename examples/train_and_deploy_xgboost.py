"""The same with XGBoost and early stopping: python -m examples.train_and_deploy_xgboost

First: pip install xgboost-cpu scikit-learn. (The package `xgboost` is the same library with 300 MB of GPU code, which
is of no use on Fargate.)
"""

from __future__ import annotations

import mlflow
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from xgboost import XGBRegressor

import mlflow_fargate

MODEL = "diabetes"


def main() -> None:
    """Prints the deployment's URL and its predictions."""
    rows, progression = load_diabetes(return_X_y=True, as_frame=True)
    rows, held_out, progression, held_out_progression = train_test_split(rows, progression, random_state=1)
    mlflow.set_experiment(MODEL)
    with mlflow.start_run():
        model = XGBRegressor(max_depth=2, n_estimators=500, learning_rate=0.1, early_stopping_rounds=20)
        model.fit(rows, progression, eval_set=[(held_out, held_out_progression)], verbose=False)
        mlflow.log_metrics({"trees": model.best_iteration + 1, "rmse": float(model.best_score)})
        logged = mlflow.xgboost.log_model(
            model, name="model", input_example=rows.head(2), registered_model_name=MODEL, model_format="json"
        )
        deployment = mlflow_fargate.deploy(logged, name=MODEL, cpu=512, memory=1024)
    mlflow_fargate.promote(MODEL, deployment.version)
    print(deployment.url)
    print(deployment.predict(held_out.head(2)))


if __name__ == "__main__":
    main()

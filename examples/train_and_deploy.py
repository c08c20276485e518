"""Trains a model, deploys it and queries it: python -m examples.train_and_deploy

Set MLFLOW_TRACKING_URI to your tracking server and MLFLOW_DEPLOYMENTS_TARGET to the target (fargate:/local for the
stack on this machine). Outside of a checkout: python -m mlflow_fargate.examples.train_and_deploy
"""

from __future__ import annotations

import mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

import mlflow_fargate

MODEL = "iris"


def main() -> None:
    """Prints the deployment's URL and its predictions."""
    rows, species = load_iris(return_X_y=True, as_frame=True)
    mlflow.set_experiment(MODEL)
    with mlflow.start_run():
        model = LogisticRegression(max_iter=500).fit(rows, species)
        mlflow.log_metric("accuracy", model.score(rows, species))
        logged = mlflow.sklearn.log_model(
            model, name="model", input_example=rows.head(2), registered_model_name=MODEL, skops_trusted_types=[]
        )
        deployment = mlflow_fargate.deploy(logged, name=MODEL, desired_count=1)
    mlflow_fargate.promote(MODEL, deployment.version)
    print(deployment.url)
    print(deployment.predict(rows.head(2)))


if __name__ == "__main__":
    main()

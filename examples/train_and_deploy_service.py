"""The same with a custom BentoML service in front of the model: python -m examples.train_and_deploy_service

The service is examples/flower_names/service.py. The variables are those of examples/train_and_deploy.py.
"""

from pathlib import Path

import mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

import mlflow_fargate

MODEL = "flower-names"
SERVICE = Path(__file__).parent / "flower_names" / "service.py"

if __name__ == "__main__":
    rows, species = load_iris(return_X_y=True, as_frame=True)
    petals = rows[["petal length (cm)", "petal width (cm)"]]
    mlflow.set_experiment(MODEL)
    with mlflow.start_run():
        model = LogisticRegression(max_iter=500).fit(petals, species)
        mlflow.log_metric("accuracy", model.score(petals, species))
        logged = mlflow.sklearn.log_model(
            model, name="model", input_example=petals.head(2), registered_model_name=MODEL, skops_trusted_types=[]
        )
    deployment = mlflow_fargate.deploy(logged, name=MODEL, service=str(SERVICE), desired_count=1)
    mlflow_fargate.promote(MODEL, deployment.version)
    print(deployment.url)
    print(deployment.predict({"length": 5.1, "width": 1.9}))

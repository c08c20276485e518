"""The same with PyTorch, from its CPU builds: python -m examples.train_and_deploy_pytorch

First: pip install torch scikit-learn --extra-index-url https://download.pytorch.org/whl/cpu. (PyPI's torch includes 3
GB of GPU libraries, which are of no use on Fargate.) The image gets it from the same index: see docs/packages.md.
"""

import os

import mlflow
import torch
from mlflow.models import infer_signature
from sklearn.datasets import load_wine

import mlflow_fargate

MODEL = "wine"
INDEX = os.environ.get("PYTORCH_INDEX", "https://download.pytorch.org/whl/cpu")

if __name__ == "__main__":
    measures, kinds = load_wine(return_X_y=True)
    rows, wanted = torch.tensor(measures, dtype=torch.float32), torch.tensor(kinds)
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(13), torch.nn.Linear(13, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    mlflow.set_experiment(MODEL)
    with mlflow.start_run():
        for epoch in range(50):
            loss = torch.nn.functional.cross_entropy(model(rows), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mlflow.log_metric("loss", loss.item(), step=epoch)
        example = rows[:2].numpy()
        signature = infer_signature(example, model.eval()(rows[:2]).detach().numpy())
        logged = mlflow.pytorch.log_model(
            model, name="model", signature=signature, input_example=example, registered_model_name=MODEL
        )
    deployment = mlflow_fargate.deploy(logged, name=MODEL, extra_index_urls=INDEX)
    mlflow_fargate.promote(MODEL, deployment.version)
    print(deployment.url)
    print([max(range(3), key=scores.__getitem__) for scores in deployment.predict(example)["predictions"]])

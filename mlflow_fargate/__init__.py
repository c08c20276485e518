"""Deploy MLflow models to AWS Fargate: what MLflow loads as the target `fargate`, and the calls for training code.

MLflow takes the one `BaseDeploymentClient` it finds among these names, so no other may stand here.
"""

from __future__ import annotations

from mlflow_fargate.client import FargateDeploymentClient, run_local, target_help
from mlflow_fargate.training import Deployment, deploy, promote

__all__ = ["Deployment", "FargateDeploymentClient", "deploy", "promote", "run_local", "target_help"]

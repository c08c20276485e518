"""Deploy MLflow models to AWS Fargate: the target plugin `fargate` that MLflow loads, and functions for training code.

MLflow uses the one `BaseDeploymentClient` among these names, so there must not be a second one.
"""

from __future__ import annotations

from mlflow_fargate.client import FargateDeploymentClient, run_local, target_help
from mlflow_fargate.training import Deployment, deploy, promote

__all__ = ["Deployment", "FargateDeploymentClient", "deploy", "promote", "run_local", "target_help"]

"""Deploy MLflow models to AWS Fargate: what MLflow loads as the target `fargate`, and the calls for training code.

MLflow takes the one `BaseDeploymentClient` it finds among these names, so no other may stand here.
"""

from __future__ import annotations

from mlflow_fargate.client import FargateDeploymentClient, run_local, target_help

__all__ = ["FargateDeploymentClient", "run_local", "target_help"]

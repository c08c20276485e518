"""Deploy MLflow models to AWS Fargate: the target plugin `fargate` that MLflow loads, and functions for training code.

MLflow uses the one `BaseDeploymentClient` among these names, so there must not be a second one. They are imported when
they are used (PEP 562): most commands of `mlflow-fargate` need no MLflow, which takes longer to load than they run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_fargate.client import FargateDeploymentClient, run_local, target_help
    from mlflow_fargate.training import Deployment, deploy, promote

__all__ = ["Deployment", "FargateDeploymentClient", "deploy", "promote", "run_local", "target_help"]
_MODULES = {"client", "errors", "training"}
_IN_CLIENT = {"FargateDeploymentClient", "run_local", "target_help"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:  # without importing them by themselves, as before
        return import_module(f"{__name__}.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.client" if name in _IN_CLIENT else f"{__name__}.training")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
